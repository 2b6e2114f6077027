/** Closing the scope: nothing is lost, and everything closes in order. */
import { assert } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("a shutdown", (it) => {
  it.scoped("waits for running handlers, and claims nothing more", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Slow", Effect.sleep("400 millis"))
      const jobsd = yield* world.start(live, { jobs: [job], workers: 1 })
      const [running, waiting] = yield* Effect.replicateEffect(jobsd.createRun(job, undefined), 2)
      yield* hasStarted(jobsd)
      yield* jobsd.stop
      assert.strictEqual((yield* jobsd.getRunState(running!)).status, "succeeded")
      assert.deepInclude(yield* jobsd.getRunState(waiting!), { status: "ready", attempt: 1, startedAt: null })
      assert.lengthOf(calls, 1)
    })
  )

  it.scoped("interrupts handlers that take longer than shutdownTimeout, and gives their runs back uncounted", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const Endless = Job.make("Endless")
      const live = Endless.toLayer(() =>
        Effect.onInterrupt(Effect.never, () =>
          Effect.delay(
            Effect.sync(() => events.push("finalized")),
            "50 millis"
          )
        )
      )
      const jobsd = yield* world.start(live, { jobs: [Endless], shutdownTimeout: "200 millis" })
      const id = yield* jobsd.createRun(Endless, undefined, { unique: "key" })
      yield* hasStarted(jobsd)
      const [took] = yield* Effect.timed(jobsd.stop)
      assert.isTrue(Duration.toMillis(took) >= 200 && Duration.toMillis(took) < 2000, `took ${Duration.toMillis(took)} ms`)
      assert.deepStrictEqual(events, ["finalized"])
      assert.deepInclude(yield* jobsd.getRunState(id), { status: "ready", attempt: 1, name: "key", crashCount: 0 })
      const [row] = yield* world.rows("instances")
      assert.strictEqual(JSON.parse(String(row?.counts)).released, 1)
      // another instance starts it at once
      const next = counted("Endless")
      const second = yield* world.start(next.live, { jobs: [next.job] })
      yield* reaches(second, id, "succeeded")
    })
  )

  it.scoped("waits no longer when it is told to hurry", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Endless = Job.make("Endless")
      const jobsd = yield* world.start(
        Endless.toLayer(() => Effect.never),
        { jobs: [Endless], shutdownTimeout: "1 minute" }
      )
      const id = yield* jobsd.createRun(Endless, undefined)
      yield* hasStarted(jobsd)
      const stopping = yield* Effect.fork(jobsd.stop)
      yield* eventually(world.rows("instances"), ([row]) => Number(row?.state) === 1)
      assert.isNull(stopping.unsafePoll())
      yield* jobsd.hurry
      yield* Fiber.join(stopping)
      assert.deepInclude(yield* jobsd.getRunState(id), { status: "ready", attempt: 1 })
    })
  )

  it.scoped("closes what handlers use after their runs have ended", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const Uses = Job.make("Uses")
      const live = Uses.toLayer(
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Effect.sync(() => events.push("connection closed")))
          return () =>
            Effect.delay(
              Effect.sync(() => events.push("run ended")),
              "200 millis"
            )
        })
      )
      const jobsd = yield* world.start(live, { jobs: [Uses] })
      yield* jobsd.createRun(Uses, undefined)
      yield* hasStarted(jobsd)
      yield* jobsd.stop
      assert.deepStrictEqual(events, ["run ended", "connection closed"])
    })
  )

  it.scoped("leaves a handler that ignores its interruption to the lease, and says so", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const end = yield* Deferred.make<void>()
      const Deaf = Job.make("Deaf")
      const live = Deaf.toLayer(() => Effect.uninterruptible(Deferred.await(end)))
      const leaseDuration = "3 seconds"
      const jobsd = yield* world.start(live, { jobs: [Deaf], shutdownTimeout: 0, leaseDuration })
      const id = yield* jobsd.createRun(Deaf, undefined)
      yield* hasStarted(jobsd)
      const stopping = yield* Effect.fork(jobsd.stop)
      yield* Fiber.join(stopping)
      assert.strictEqual((yield* jobsd.getRunState(id)).status, "running")
      assert.isTrue(world.logs.some(({ annotations, message }) => message.includes("ignores its interruption") && annotations.runId === id))
      // an instance that has signed off holds nothing
      const [instance] = yield* world.rows("instances")
      assert.strictEqual(Number(instance?.state), 1)
      // nobody takes it up while the lease lasts, not even one that looks every 200 ms
      const next = counted("Deaf")
      const second = yield* world.start(next.live, { jobs: [next.job], leaseDuration })
      const state = yield* reaches(second, id, "succeeded")
      assert.strictEqual(state.crashCount, 1)
      const [row] = yield* world.rows("runs")
      assert.isAbove(Number(row?.claimed_at), Number(instance?.lease_until))
      yield* Deferred.succeed(end, undefined)
    })
  )

  it.scoped("of many instances at once under load loses and doubles nothing", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Load", Effect.sleep("5 millis"))
      const client = yield* Effect.zipRight(world.migrate, world.client())
      const first = yield* Effect.replicateEffect(world.start(live, { jobs: [job] }), 3)
      const ids = yield* Effect.forEach(Array.from({ length: 150 }), () => client.createRun(job, undefined), { concurrency: 10 })
      yield* Effect.forEach(first, ({ stop }) => stop, { concurrency: "unbounded" })
      const second = yield* world.start(live, { jobs: [job] })
      yield* eventually(world.rows("runs", "WHERE state = 2"), (rows) => rows.length === ids.length)
      assert.sameMembers(
        calls.map((run) => run.id),
        ids
      )
      yield* second.stop
    })
  )

  it.scoped("of an idle instance is quick", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(Layer.empty, { jobs: [], pollInterval: "1 minute" })
      const [took] = yield* Effect.timed(jobsd.stop)
      assert.isBelow(Duration.toMillis(took), 1000)
    })
  )
})
