/** How much is asked of the database for what happens all day. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { make as makeFaulty } from "./faults/support/faultyClient.js"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("the statements", (it, database) => {
  const watchedWorld = Effect.gen(function* () {
    const watched = makeFaulty(yield* SqlClient.SqlClient)
    const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, watched.sql)
    return { world, kinds: () => watched.seen.map(({ kind }) => kind) }
  })

  /** a client for one job; `since`: what it has sent since it was there */
  const watchedClient = Effect.gen(function* () {
    const { kinds, world } = yield* watchedWorld
    yield* world.migrate
    const jobsd = yield* world.client()
    const before = kinds().length
    return { jobsd, since: () => kinds().slice(before), ...counted("Mail") }
  })

  it.scoped("that take a run which is known to be due are a claim, without a look", () =>
    Effect.gen(function* () {
      const { kinds, world } = yield* watchedWorld
      const { job, live } = counted("Mail")
      const jobsd = yield* world.start(live, { jobs: [job], pollInterval: "1 hour" })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
      yield* eventually(Effect.sync(kinds), (kinds) => kinds.includes("look"))
      const before = kinds().length
      const runs = 40
      const [took] = yield* Effect.timed(
        Effect.repeatN(
          Effect.flatMap(jobsd.createRun(job, undefined), (id) => reaches(jobsd, id, "succeeded")),
          runs - 1
        )
      )
      const during = kinds().slice(before)
      assert.isAtLeast(during.filter((kind) => kind === "claim").length, runs)
      // MySQL, where nobody is heard, is looked at every 190 ms whatever happens
      const regular = database === "mysql" ? Duration.toMillis(took) / 150 : 0
      assert.isAtMost(during.filter((kind) => kind === "look").length, 3 + regular)
    })
  )

  it.scoped("that ten send who create again and again are one for all ten", () =>
    Effect.gen(function* () {
      const { job, jobsd, since } = yield* watchedClient
      const rounds = 20
      const create = Effect.replicateEffect(jobsd.createRun(job, undefined), rounds)
      const ids = yield* Effect.map(Effect.replicateEffect(create, 10, { concurrency: "unbounded" }), (all) => all.flat())
      assert.strictEqual(new Set(ids).size, 10 * rounds)
      const creates = since().filter((kind) => kind === "create")
      // the first may go alone, and the last do not all end at once
      assert.isAtMost(creates.length, rounds + 5)
    })
  )

  it.scoped("that create some runs at once are one, where a key that is taken is no error", () =>
    Effect.gen(function* () {
      const { job, jobsd, since } = yield* watchedClient
      const ids = yield* jobsd.createRuns(
        job,
        Array.from({ length: 50 }, () => undefined)
      )
      assert.strictEqual(new Set(ids).size, 50)
      const during = since()
      assert.strictEqual(during.filter((kind) => kind === "create").length, 1)
      assert.strictEqual(during.includes("begin"), database === "mysql")
    })
  )
})
