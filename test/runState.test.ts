/** What can be asked about a run. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Schema } from "effect"
import { Job, JobSchedule, Jobsd } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { eventually, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("the state of a run", (it) => {
  it.scoped("has every field through a run's life", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const go = yield* Deferred.make<void>()
      const Add = Job.make("Add", { payload: { a: Schema.Number, b: Schema.Number }, success: Schema.Number, queue: "sums" })
      const live = Add.toLayer(({ a, b }) => Effect.as(Deferred.await(go), a + b))
      const jobsd = yield* world.start(live, { jobs: [Add], queues: { sums: 1 } })
      const client = yield* world.client()
      const { id: me } = yield* jobsd.instance
      const id = yield* client.createRun(Add, { a: 1, b: 2 }, { unique: "sum", delay: "100 millis" })

      const waiting = yield* jobsd.getRunState(id)
      const { createdAt, createdBy, runAt, ...rest } = waiting
      assert.deepStrictEqual(rest, {
        id,
        originId: id,
        name: "sum",
        job: "Add",
        queue: "sums",
        schedule: null,
        status: "ready",
        attempt: 1,
        occurrence: 0,
        startedAt: null,
        startedBy: null,
        completedAt: null,
        completedError: null,
        result: null,
        successCount: 0,
        retriesOnErrorCount: 0,
        retriesOnTimeoutCount: 0,
        crashCount: 0
      })
      assert.notStrictEqual(createdBy, me)
      assert.strictEqual(runAt.epochMillis - createdAt.epochMillis, 100)
      assert.isBelow(Math.abs(createdAt.epochMillis - Date.now()), 5000)

      const running = yield* reaches(jobsd, id, "running")
      assert.strictEqual(running.startedBy, me)
      assert.isAtLeast(running.startedAt?.epochMillis ?? 0, runAt.epochMillis)

      yield* Deferred.succeed(go, undefined)
      const done = yield* reaches(jobsd, id, "succeeded")
      assert.deepInclude(done, { result: 3, successCount: 1, startedBy: me, name: "sum", attempt: 1, completedError: null })
      assert.isAtLeast(done.completedAt?.epochMillis ?? 0, done.startedAt?.epochMillis ?? 1)
      // a snapshot is a snapshot
      assert.strictEqual(waiting.status, "ready")
      const refreshed = yield* Effect.provideService(Jobsd.refresh(waiting), Jobsd.Jobsd, jobsd)
      assert.deepStrictEqual(refreshed, done)
    })
  )

  it.scoped("is that of the latest run of the chain, for any id of it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Tick = Job.make("Tick", { success: Schema.Number })
      const Often = JobSchedule.every("Often", "50 millis")
      const jobsd = yield* world.start(
        Tick.toLayer((_, { occurrence }) => Effect.succeed(occurrence)),
        { jobs: [Tick], schedules: [Often] }
      )
      const id = yield* jobsd.createRun(Tick, undefined, { schedule: Often, limit: 3 })
      yield* eventually(jobsd.getRunState(id), (state) => state.successCount === 3)
      const rows = yield* world.rows("runs", "ORDER BY occurrence")
      for (const row of rows) {
        const state = yield* jobsd.getRunState(String(row.id) as typeof id)
        assert.deepInclude(state, { id: rows[2]?.id as typeof id, originId: id, occurrence: 2, result: 2, schedule: "Often" })
      }
      // the first row of a chain may be deleted before its last
      yield* world.unsafe(`DELETE FROM @_runs WHERE id = '${id}'`)
      assert.strictEqual((yield* jobsd.getRunState(id)).occurrence, 2)
    })
  )

  it.scoped("of an id that nobody knows is an error with the id", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      type Id = Parameters<typeof jobsd.getRunState>[0]
      const unknown = "0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10" as Id
      assert.deepInclude(yield* Effect.flip(jobsd.getRunState(unknown)), { _tag: "RunNotFound", id: unknown })
      // ids come in from outside: what is no id is no run either
      for (const wrong of ["", "1", "'; DROP TABLE x; --", "x".repeat(5000), "\0"]) {
        assert.strictEqual((yield* Effect.flip(jobsd.getRunState(wrong as Id)))._tag, "RunNotFound", wrong)
        assert.strictEqual((yield* Effect.flip(jobsd.cancel(wrong as Id)))._tag, "RunNotFound", wrong)
      }
    })
  )
})
