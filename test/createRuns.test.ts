/** Many runs at once: all or none, and each as good as one that was created alone. */
import { assert } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Job, JobSchedule, type Run } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { eventually, makeWorld } from "./support/world.js"

const Numbered = Job.make("Numbered", { payload: { n: Schema.Int, text: Schema.String } })
const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n, text: `number ${n}: "äöü" 'and' \\ \u0000 🎈` }))

onEveryDatabase("createRuns", (it) => {
  it.scoped("creates a run for each payload, in one statement or many, and returns their ids in order, in which they rise", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const seen = new Map<Run.RunId, unknown>()
      const live = Numbered.toLayer((payload, run) => Effect.sync(() => seen.set(run.id, payload)))
      const jobsd = yield* world.start(live, { jobs: [Numbered], workers: 1 })
      const payloads = numbers(2501)
      const ids = yield* jobsd.createRuns(Numbered, payloads, { priority: 3 })
      yield* eventually(world.rows("runs", "WHERE state = 2"), (rows) => rows.length === payloads.length, "20 seconds")
      assert.deepStrictEqual(
        ids.map((id) => seen.get(id)),
        payloads
      )
      assert.deepStrictEqual([...ids].sort(), ids)
      const rows = yield* world.rows("runs")
      assert.isTrue(rows.every((row) => Number(row.priority) === 3 && Number(row.payload_bytes) === Buffer.byteLength(String(row.payload))))
    })
  )

  it.scoped("creates nothing if one payload does not fit", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const error = yield* Effect.flip(jobsd.createRuns(Numbered, [...numbers(3), { n: 0.5, text: "" }]))
      assert.strictEqual(error._tag, "PayloadError")
      assert.deepStrictEqual(yield* jobsd.createRuns(Numbered, []), [])
      assert.lengthOf(yield* world.rows("runs"), 0)
    })
  )

  it.scoped("takes part in the caller's transaction", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const create = jobsd.createRuns(Numbered, numbers(600))
      yield* Effect.flip(world.sql.withTransaction(Effect.zipRight(create, Effect.fail("no"))))
      assert.lengthOf(yield* world.rows("runs"), 0)
      const ids = yield* world.sql.withTransaction(create)
      assert.sameMembers(
        (yield* world.rows("runs")).map((row) => row.id),
        [...ids]
      )
    })
  )

  it.scoped("takes delays, schedules and policies for all of them", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const Hourly = JobSchedule.every("Hourly", "1 hour")
      const ids = yield* jobsd.createRuns(Numbered, numbers(2), { schedule: Hourly, limit: 2, timeout: "1 minute" })
      for (const id of ids) {
        const state = yield* jobsd.getRunState(id)
        assert.strictEqual(state.originId, id)
        assert.isAtLeast(state.runAt.epochMillis - state.createdAt.epochMillis, 3_599_000)
      }
      const rows = yield* world.rows("runs")
      assert.isTrue(rows.every((row) => Number(row.timeout_ms) === 60_000 && Number(row.success_limit) === 2))
    })
  )
})

onEveryDatabase("many calls of createRun at once", (it) => {
  it.scoped("are written together, and each gets its own id, its own holder or its own error", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client({ payloadLimit: 1000 })
      const calls = Array.from({ length: 200 }, (_, n) =>
        Effect.either(
          jobsd.createRun(
            Numbered,
            { n, text: n % 50 === 0 ? "x".repeat(2000) : "" },
            n % 10 === 1 ? { unique: `key ${n % 40}` } : { delay: n }
          )
        )
      )
      const results = yield* Effect.all(calls, { concurrency: "unbounded" })
      assert.deepStrictEqual(
        results.flatMap((result, n) => (result._tag === "Left" ? [[n, result.left._tag]] : [])),
        [0, 50, 100, 150].map((n) => [n, "PayloadError"])
      )
      const rows = yield* world.rows("runs")
      const ids = results.flatMap((result) => (result._tag === "Right" ? [result.right] : []))
      // 196 are well, 20 of them share 4 keys
      assert.lengthOf(ids, 196)
      assert.lengthOf(rows, 180)
      assert.sameMembers(
        [...new Set<string>(ids)],
        rows.map((row) => String(row.id))
      )
      for (const [n, result] of results.entries()) {
        if (result._tag === "Left") continue
        const row = rows.find((row) => row.id === result.right)!
        if (n % 10 !== 1) assert.strictEqual(JSON.parse(String(row.payload)).n, n)
        else assert.strictEqual(row.name, `key ${n % 40}`)
      }
    })
  )
})
