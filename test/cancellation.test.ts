/** Cancelling a run is interrupting its fiber, and ends its chain. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Layer } from "effect"
import { Job, JobSchedule } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const Often = JobSchedule.every("Often", "100 millis")

onEveryDatabase("cancelling", (it) => {
  it.scoped("a waiting run ends it at once: it never starts, and its key is free", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Waiting")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const id = yield* jobsd.createRun(job, undefined, { delay: "300 millis", unique: "key" })
      assert.strictEqual(yield* jobsd.cancel(id), "cancelled")
      const state = yield* jobsd.getRunState(id)
      assert.deepInclude(state, { status: "cancelled", startedAt: null, completedError: null, name: "key" })
      assert.isNotNull(state.completedAt)
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined, { delay: "400 millis", unique: "key" }), "succeeded")
      assert.lengthOf(calls, 1)
      assert.strictEqual(yield* jobsd.cancel(id), "finished")
    })
  )

  it.scoped("a run that is running here interrupts it, and its finalizers run", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const started = yield* Deferred.make<void>()
      const Endless = Job.make("Endless")
      const live = Endless.toLayer(() =>
        Effect.acquireRelease(Deferred.succeed(started, undefined), () => Effect.sync(() => events.push("released"))).pipe(
          Effect.zipRight(Effect.never),
          Effect.onInterrupt(() => Effect.sync(() => events.push("interrupted")))
        )
      )
      const jobsd = yield* world.start(live, { jobs: [Endless] })
      const id = yield* jobsd.createRun(Endless, undefined, { unique: "key" })
      yield* Deferred.await(started)
      assert.strictEqual(yield* jobsd.cancel(id), "requested")
      yield* reaches(jobsd, id, "cancelled")
      assert.deepStrictEqual(events, ["interrupted", "released"])
      assert.notStrictEqual(yield* jobsd.createRun(Endless, undefined, { unique: "key", delay: "1 hour" }), id)
      assert.strictEqual((yield* jobsd.instance).counts.cancelled, 1)
      assert.strictEqual(yield* jobsd.cancel(id), "finished")
    })
  )

  it.scoped("a run that is running elsewhere is heard of with the next heartbeat", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const started = yield* Deferred.make<void>()
      const Endless = Job.make("Endless")
      const live = Endless.toLayer(() => Effect.zipRight(Deferred.succeed(started, undefined), Effect.never))
      yield* world.start(live, { jobs: [Endless], leaseDuration: "3 seconds" })
      const client = yield* world.client()
      const id = yield* client.createRun(Endless, undefined)
      yield* Deferred.await(started)
      assert.strictEqual(yield* client.cancel(id), "requested")
      yield* reaches(client, id, "cancelled")
    })
  )

  it.scoped("a chain, by any id of it, stops it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Chain")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Often] })
      const id = yield* jobsd.createRun(job, undefined, { schedule: Often })
      yield* eventually(jobsd.getRunState(id), (state) => state.successCount >= 2)
      yield* jobsd.cancel(id)
      yield* reaches(jobsd, id, "cancelled")
      const done = calls.length
      yield* Effect.sleep("400 millis")
      assert.lengthOf(calls, done)
      assert.lengthOf(yield* world.rows("runs", "WHERE state IN (0, 1)"), 0)
    })
  )

  it.scoped("a run that is just failing leaves it cancelled instead of retried", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const started = yield* Deferred.make<void>()
      const Failing = Job.make("Failing")
      const live = Failing.toLayer(() =>
        Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.sleep("300 millis")),
          Effect.zipRight(Effect.fail("no")),
          Effect.uninterruptible
        )
      )
      const jobsd = yield* world.start(live, { jobs: [Failing] })
      const id = yield* jobsd.createRun(Failing, undefined)
      yield* Deferred.await(started)
      yield* jobsd.cancel(id)
      const state = yield* reaches(jobsd, id, "cancelled", "succeeded", "failed")
      assert.strictEqual(state.status, "cancelled")
    })
  )

  it.scoped("an id that nobody knows is an error", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(Layer.empty, { jobs: [] })
      const id = "0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10" as Parameters<typeof jobsd.cancel>[0]
      assert.deepInclude(yield* Effect.flip(jobsd.cancel(id)), { _tag: "RunNotFound", id })
    })
  )
})
