/** Claims whose answer never arrives, and ids that a clone would share. */
import { SqlClient } from "@effect/sql"
import { assert, vi } from "@effect/vitest"
import { Effect, Random } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { eventually, makeWorld } from "../support/world.js"
import { limit, report, scaled } from "./support/campaign.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import { Act } from "./support/work.js"

interface Running {
  readonly id: string
  readonly fence: number
}

const claimOf = ({ fence, id }: Running) => `${id} ${fence}`
const claimsOf = (runs: ReadonlyArray<Running>): ReadonlySet<string> => new Set(runs.map(claimOf))

onEveryDatabase("a claim whose answer is lost", (it, database) => {
  for (const alsoTheLook of [false, true]) {
    it.scoped(
      alsoTheLook
        ? "and whose run cannot be looked up either leaves no run behind for longer than three heartbeats"
        : "leaves no run behind that nobody works on",
      () =>
        Effect.gen(function* () {
          const losses = alsoTheLook ? scaled(4, 100) : scaled(20, 1000)
          const faulty = makeFaulty(yield* SqlClient.SqlClient)
          const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
          const working = new Set<string>()
          const Quick = Job.make("Quick")
          const live = Quick.toLayer((_, run) =>
            Effect.acquireUseRelease(
              Effect.sync(() => working.add(run.id)),
              () => Effect.sleep("5 millis"),
              () => Effect.sync(() => working.delete(run.id))
            )
          )
          const jobsd = yield* world.start(live, { jobs: [Quick], workers: 4, leaseDuration: "3 seconds" })
          for (let nth = 1; nth <= 2 * losses; nth += 2) faulty.arm({ at: "claim", when: "after", nth, act: { do: "lose" } })
          if (alsoTheLook) faulty.arm({ at: "claim read", when: "before", act: { do: "lose" } })
          const complaints = () => world.logs.filter(({ message }) => /could not (renew the lease|give back a run)/.test(message)).length
          const renewals = () => faulty.seen.filter(({ kind }) => kind === "heartbeat").length - complaints()
          const lostClaims = () => faulty.seen.filter(({ kind }) => kind === "claim").length / 2
          let created = 0
          while (lostClaims() < losses) {
            yield* Effect.orDie(jobsd.createRun(Quick, undefined))
            created++
            // in steps, so that there is something for each claim
            yield* Effect.sleep("20 millis")
          }
          faulty.disarm()
          const held = claimsOf(yield* world.rows<Running>("runs", "WHERE state = 1"))
          if (alsoTheLook) assert.isAbove(held.size, 0, "claims that nobody knows of")
          // One heartbeat sees the claim, the next one sees it again, and what was on its way has arrived with the third. They are counted,
          // and not timed: one whose answer comes late, on a slow disk, has seen nothing.
          const before = renewals()
          yield* eventually(Effect.sync(renewals), (count) => count >= before + 3, "20 seconds")
          const running = yield* world.rows<Running>("runs", "WHERE state = 1")
          const left = running.filter((run) => held.has(claimOf(run)) && !working.has(run.id))
          yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === created, "30 seconds")
          report({
            row: 16,
            what: alsoTheLook ? "claim replies dropped, and the look for them" : "claim replies dropped",
            database,
            count: faulty.struck(),
            result: left.length === 0 ? "passed" : "failed",
            figure: `${created} runs, left running without a fiber ${left.length}`
          })
          assert.isAtLeast(faulty.struck(), losses)
          assert.lengthOf(left, 0)
          const counted = yield* world.rows("runs", "WHERE crashes > 0 OR errors > 0 OR timeouts > 0")
          assert.lengthOf(counted, 0)
        }),
      limit(40, 600)
    )
  }
})

onEveryDatabase("a look for due runs", (it, database) => {
  // SQLite's driver answers before it returns
  const test = database === "sqlite" ? it.scoped.skip : it.scoped

  test("that is not answered holds up claims for a third of the lease, and not for ten seconds", () =>
    Effect.gen(function* () {
      const faulty = makeFaulty(yield* SqlClient.SqlClient)
      const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
      const Quick = Job.make("Quick")
      const live = Quick.toLayer(() => Effect.void)
      const jobsd = yield* world.start(live, { jobs: [Quick], leaseDuration: "3 seconds" })
      faulty.arm({ at: "look", when: "before", nth: 1, act: { do: "delay", millis: 9000 } })
      yield* eventually(Effect.sync(faulty.struck), (struck) => struck === 1)
      const id = yield* jobsd.createRun(Quick, undefined)
      yield* eventually(jobsd.getRunState(id), ({ status }) => status === "succeeded", "6 seconds")
    }))
})

onEveryDatabase("two processes with the same memory", (it) => {
  it.scoped("have different ids: chance that a clone would share decides nothing", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { jobs, live } = { jobs: [Act], live: Act.toLayer(() => Effect.void) }
      yield* Effect.acquireRelease(
        Effect.sync(() => vi.spyOn(Math, "random").mockReturnValue(0.5)),
        (spy) => Effect.sync(() => spy.mockRestore())
      )
      const clone = Effect.withRandom(world.start(live, { jobs }), Random.make("the same"))
      const [one, two] = yield* Effect.replicateEffect(clone, 2)
      assert.notStrictEqual((yield* one!.instance).id, (yield* two!.instance).id)
      assert.lengthOf(yield* world.rows("instances"), 2)
    })
  )
})
