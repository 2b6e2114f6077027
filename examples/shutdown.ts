import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Fiber, Layer, Schema } from "effect"
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

const JobsdLive = Jobsd.layer({ jobs: [Work], shutdownTimeout: "1 second" }).pipe(
  Layer.provide(WorkLive),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

const program = Effect.gen(function* () {
  const jobsd = yield* Jobsd.Jobsd
  // A second signal hurries: handlers are interrupted at once.
  process.once("SIGTERM", () => {
    console.log("SIGTERM: no more claims")
    Effect.runFork(Fiber.interrupt(running))
    process.once("SIGTERM", () => Effect.runFork(jobsd.hurry))
  })

  yield* Jobsd.createRuns(Work, [{ millis: 800 }, { millis: 60_000 }])
  // Here the program plays the container's part too.
  yield* Effect.sleep("300 millis")
  yield* Effect.sync(() => process.kill(process.pid, "SIGTERM"))
  yield* Effect.never
})

const running = Effect.runFork(Effect.provide(program, JobsdLive))
running.addObserver(() => console.log("good bye"))
