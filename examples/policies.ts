import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, DateTime, Effect, Layer, Schedule } from "effect"
import { Job, Jobsd, type Run } from "jobsd"

// A policy says when an attempt is stopped, how often there is another one, and how long that one waits.
// It can stand in three places, and the innermost wins, setting by setting.

// This job has none of its own.
const Plain = Job.make("Plain")

// 2. A job's policy holds for all of its runs.
const Stubborn = Job.make("Stubborn", {
  retriesOnError: 3, // Infinity: for ever
  // any Effect Schedule that counts steps: here 50 ms, 100 ms, 200 ms, ...
  backoff: Schedule.exponential("50 millis")
})

// Each kind of failure spends only its own budget: this one may fail once, and time out once.
const Mixed = Job.make("Mixed", { timeout: "100 millis", retriesOnError: 1, retriesOnTimeout: 1 })

const fail = (run: Run.RunInfo) =>
  Console.log(
    `${run.job}: attempt ${run.attempt} of ${run.retriesOnErrorLimit + 1}, after ${DateTime.distance(run.createdAt, run.startedAt)} ms`
  ).pipe(Effect.zipRight(Effect.fail("broken")))

const Handlers = Layer.mergeAll(
  Plain.toLayer((_, run) => fail(run)),
  Stubborn.toLayer((_, run) => fail(run)),
  Mixed.toLayer((_, run) => (run.attempt === 1 ? Effect.fail("broken") : run.attempt === 2 ? Effect.never : Effect.void))
)

// 1. The instance's policy is for all that jobs and runs leave open.
const JobsdLive = Jobsd.layer({ jobs: [Plain, Stubborn, Mixed], retriesOnError: 1, backoff: Schedule.spaced("50 millis") }).pipe(
  Layer.provide(Handlers),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

const ended = (id: Run.RunId) =>
  Jobsd.getRunState(id).pipe(Effect.delay("20 millis"), Effect.repeat({ until: ({ completedAt }) => completedAt !== null }))

const program = Effect.gen(function* () {
  const byInstance = yield* ended(yield* Jobsd.createRun(Plain))
  yield* Console.log(`by the instance's policy: ${byInstance.status} at attempt ${byInstance.attempt}`)

  const byJob = yield* ended(yield* Jobsd.createRun(Stubborn))
  yield* Console.log(`by the job's policy: ${byJob.status} at attempt ${byJob.attempt}`)

  // 3. A run's policy is for this one alone.
  const byRun = yield* ended(yield* Jobsd.createRun(Stubborn, undefined, { retriesOnError: 0 }))
  yield* Console.log(`by the run's policy: ${byRun.status} at attempt ${byRun.attempt}`)

  const mixed = yield* ended(yield* Jobsd.createRun(Mixed))
  yield* Console.log(
    `Mixed: ${mixed.status} at attempt ${mixed.attempt}, errors ${mixed.retriesOnErrorCount}, timeouts ${mixed.retriesOnTimeoutCount}`
  )
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
