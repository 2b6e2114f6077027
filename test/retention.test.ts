/** Finished runs are kept for a while, and then deleted. */
import { assert } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { make as makeFaulty } from "./faults/support/faultyClient.js"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches, type World } from "./support/world.js"

const day = Duration.toMillis("1 day")

/** runs that ended so many days ago, in each way, with an earlier attempt each */
const finished = (world: World, days: number) =>
  Effect.gen(function* () {
    const client = yield* world.client()
    const { job } = counted("Old")
    for (const state of [2, 3, 4]) {
      const id = yield* client.createRun(job, undefined)
      yield* world.unsafe(`UPDATE @_runs SET state = ${state}, finished_at = created_at - ${Math.round(days * day)} WHERE id = '${id}'`)
      yield* world.unsafe(`INSERT INTO @_attempts (run_id, fence, attempt, ended_at, outcome) VALUES ('${id}', 1, 1, 1, 'error')`)
    }
  })

const states = (world: World) =>
  Effect.map(world.rows("runs", "ORDER BY state, finished_at DESC"), (rows) => rows.map((row) => Number(row.state)))

onEveryDatabase("retention", (it) => {
  it.scoped("keeps successes for 3 days, and failures and cancellations for 30", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      for (const days of [2.9, 3.1, 29.9, 30.1]) yield* finished(world, days)
      const { job, live } = counted("Any")
      const jobsd = yield* world.start(live, { jobs: [job] })
      yield* eventually(states(world), (kept) => kept.length === 7)
      assert.deepStrictEqual(yield* states(world), [2, 3, 3, 3, 4, 4, 4])
      assert.lengthOf(yield* world.rows("attempts"), 7)
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
    })
  )

  it.scoped("follows the settings, and Infinity keeps for ever", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      for (const days of [0.5, 5000]) yield* finished(world, days)
      const { job, live } = counted("Any")
      yield* world.start(live, { jobs: [job], retention: { succeeded: "1 hour", failed: Number.POSITIVE_INFINITY } })
      yield* eventually(states(world), (kept) => kept.length === 3)
      assert.deepStrictEqual(yield* states(world), [3, 3, 4])
    })
  )

  it.scoped("deletes thousands in small batches, and never what is unfinished", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const { job, live } = counted("Any")
      const unfinished = yield* client.createRun(job, undefined, { delay: "1 hour" })
      const first = yield* client.createRun(job, undefined)
      yield* world.unsafe(`UPDATE @_runs SET state = 2, finished_at = 1 WHERE id = '${first}'`)
      // doubles the old ones eleven times
      const columns =
        "occurrence, job, queue, state, priority, run_at, created_at, created_by, finished_at, fence, errors, timeouts, crashes, success_count, payload, payload_bytes, late"
      for (let i = 0; i < 11; i++) {
        const rows = yield* world.rows("runs", "WHERE state = 2")
        const values = rows.map(() => crypto.randomUUID()).map((id, row) => `('${id}', '${rows[row]?.id}')`)
        yield* world.unsafe(
          world.sql.onDialectOrElse({
            mysql: () => `INSERT INTO @_runs (id, origin_id, ${columns}) SELECT UUID(), UUID(), ${columns} FROM @_runs WHERE state = 2`,
            orElse: () =>
              `INSERT INTO @_runs (id, origin_id, ${columns}) SELECT v.column1, v.column1, ${columns}
               FROM @_runs r JOIN (VALUES ${values.join(", ")}) v ON v.column2 = r.id`,
            pg: () =>
              `INSERT INTO @_runs (id, origin_id, ${columns}) SELECT gen_random_uuid(), gen_random_uuid(), ${columns} FROM @_runs WHERE state = 2`
          })
        )
      }
      const old = Effect.map(world.rows("runs", "WHERE finished_at = 1"), (rows) => rows.length)
      assert.strictEqual(yield* old, 2048)
      const batch = world.sql.onDialectOrElse({ sqlite: () => 100, orElse: () => 1000 })
      // an instance whose commits take a second, until one of them has deleted something: it then pauses for three
      const faulty = makeFaulty((yield* world.apart).sql)
      faulty.arm({ at: "commit", when: "after", act: { do: "delay", millis: 1000 } })
      const jobsd = yield* world.on(faulty.sql).start(live, { jobs: [job] })
      const left = yield* eventually(old, (left) => left < 2048)
      faulty.disarm()
      assert.strictEqual(left, 2048 - batch)
      yield* reaches(jobsd, yield* client.createRun(job, undefined), "succeeded")
      assert.strictEqual(yield* old, 2048 - batch, "what is created meanwhile does not wait for what is old")
      yield* eventually(old, (left) => left === 0)
      // each batch is committed by itself
      const deletions = faulty.seen.flatMap(({ kind, text }) =>
        /DELETE .*_runs/s.test(text) ? ["delete"] : kind === "commit" ? ["commit"] : []
      )
      assert.match(deletions.join(" "), /^(commit )*(delete( commit)+ ?)+$/)
      assert.lengthOf(
        deletions.filter((what) => what === "delete"),
        Math.ceil(2048 / batch)
      )
      assert.strictEqual((yield* client.getRunState(unfinished)).status, "ready")
      assert.lengthOf(yield* world.rows("runs"), 2)
    })
  )
})
