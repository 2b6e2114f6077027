/** An instance that loses its lease while it waits for its handlers to end. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { eventually, hasStarted, makeWorld } from "../support/world.js"

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
})
