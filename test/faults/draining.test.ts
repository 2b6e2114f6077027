/** An instance that is shutting down when it loses its lease, or whose handlers do not end. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "../support/world.js"

onEveryDatabase("a shutdown", (it) => {
  it.scoped("that waits for handlers interrupts them when others have their runs", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const interrupted = yield* Deferred.make<void>()
      const Long = Job.make("Long")
      const jobsd = yield* world.start(
        Long.toLayer(() => Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))),
        { jobs: [Long], leaseDuration: "3 seconds", shutdownTimeout: "1 hour" }
      )
      const id = yield* jobsd.createRun(Long, undefined)
      yield* hasStarted(jobsd)
      const stopping = yield* Effect.fork(jobsd.stop)
      yield* eventually(world.rows("instances"), ([row]) => Number(row?.state) === 1)
      yield* world.unsafe("UPDATE @_instances SET state = 3")
      yield* Deferred.await(interrupted)
      yield* Fiber.join(stopping)
      // not given back uncounted: whoever finds it dead takes the run, and any instance does that, this one too
      const [row] = yield* world.rows("runs", `WHERE id = '${id}'`)
      assert.isTrue(Number(row?.state) === 1 || Number(row?.crashes) === 1, JSON.stringify(row))
    })
  )

  it.scoped("leaves a run whose handler does not end to the lease: nobody starts it before", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const end = yield* Deferred.make<void>()
      const Deaf = Job.make("Deaf")
      const { job, live } = counted("Other")
      const deaf = Deaf.toLayer(() => Effect.uninterruptible(Deferred.await(end)))
      const first = yield* world.start(deaf, { jobs: [Deaf], shutdownTimeout: 0, leaseDuration: "3 seconds" })
      const id = yield* first.createRun(Deaf, undefined)
      yield* hasStarted(first)
      const [claimed] = yield* world.rows("runs", `WHERE id = '${id}'`)
      yield* first.stop
      const [instance] = yield* world.rows<{ readonly state: number; readonly lease_until: number }>("instances")
      assert.strictEqual(Number(instance?.state), 1)
      const second = yield* world.start(
        Layer.merge(
          Deaf.toLayer(() => Effect.void),
          live
        ),
        { jobs: [Deaf, job], leaseDuration: "3 seconds", retriesOnCrash: 3 }
      )
      yield* reaches(second, yield* second.createRun(job, undefined), "succeeded")
      const done = yield* reaches(second, id, "succeeded")
      assert.strictEqual(done.crashCount, 1)
      const [row] = yield* world.rows("runs", `WHERE id = '${id}'`)
      assert.isAbove(Number(row?.claimed_at), Number(instance?.lease_until))
      assert.isAbove(Number(row?.fence), Number(claimed?.fence))
      yield* Deferred.succeed(end, undefined)
    })
  )
})
