import { SqliteClient } from "@effect/sql-sqlite-node"
import { Cause, Console, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

// What a container does when it is told to stop. Kubernetes sends SIGTERM and, 30 seconds later, SIGKILL. The defaults fit:
// 20 seconds for handlers to end by themselves (shutdownTimeout), 5 for the finalizers of those that are interrupted then, 3 for
// outcomes to reach the database. What is still alive after that is left to the lease: another instance takes it up.

const Work = Job.make("Work", { payload: { millis: Schema.Int } })

const WorkLive = Work.toLayer(({ millis }) =>
  Console.log(`${millis} ms of work begin`).pipe(
    Effect.zipRight(Effect.sleep(millis)),
    Effect.zipRight(Console.log(`${millis} ms of work are done`)),
    Effect.onInterrupt(() => Console.log(`${millis} ms of work are interrupted, and begin again elsewhere`))
  )
)

// Shorter than the default, to watch it.
const JobsdLive = Jobsd.layer({ jobs: [Work], shutdownTimeout: "2 seconds" }).pipe(
  Layer.provide(WorkLive),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

const program = Effect.gen(function* () {
  const jobsd = yield* Jobsd.Jobsd
  process.once("SIGTERM", () => {
    console.log("SIGTERM: no more claims")
    console.time("stopped within")
    Effect.runFork(Fiber.interrupt(running))
    // A second signal hurries: handlers are interrupted at once.
    process.once("SIGTERM", () => Effect.runFork(jobsd.hurry))
  })

  yield* Jobsd.createRuns(Work, [{ millis: 1500 }, { millis: 60_000 }])
  // Here the program plays the container's part too. With any argument it waits for a signal of yours instead.
  if (process.argv[2] === undefined) yield* Effect.delay(sigterm, "1 second")
  yield* Effect.never
})

const sigterm = Effect.sync(() => process.kill(process.pid, "SIGTERM"))

const running = Effect.runFork(Effect.provide(program, JobsdLive))

running.addObserver((exit) => {
  // With nothing left to do, Node ends by itself, with exit code 0.
  if (Exit.isInterrupted(exit)) return console.timeEnd("stopped within")
  // Any other end is a failure: no database, say. A container should show it.
  if (Exit.isFailure(exit)) console.error(Cause.pretty(exit.cause))
  process.exitCode = 1
})
