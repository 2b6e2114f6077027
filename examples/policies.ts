import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Layer, Schedule } from "effect"
import { Job, Jobsd, type Run } from "jobsd"

// A policy says when an attempt is stopped and how often there is another one. It can stand in three places: the innermost wins.

// 2. The job's: what it says holds for all of its runs.
const Flaky = Job.make("Flaky", { retriesOnError: 2, backoff: Schedule.spaced("50 millis") })

// Each kind of failure spends only its own budget: this one may fail once and time out once.
const Mixed = Job.make("Mixed", {
  timeout: "100 millis",
  retriesOnError: 1,
  retriesOnTimeout: 1,
  // any Schedule that counts steps: 20 ms, 40 ms, 80 ms, ...
  backoff: Schedule.exponential("20 millis")
})

const Handlers = Layer.mergeAll(
  Flaky.toLayer((_, run) =>
    Effect.zipRight(Console.log(`Flaky: attempt ${run.attempt} of ${run.retriesOnErrorLimit + 1}`), Effect.fail("broken"))
  ),
  Mixed.toLayer((_, run) => {
    if (run.attempt === 1) return Effect.fail("an error")
    if (run.attempt === 2) return Effect.never
    return Console.log(`Mixed: attempt ${run.attempt}, after ${run.retriesOnErrorCount} error and ${run.retriesOnTimeoutCount} timeout`)
  })
)

// 1. The instance's: what neither the job nor the run says.
const JobsdLive = Jobsd.layer({ jobs: [Flaky, Mixed], retriesOnError: 9, timeout: "1 minute" }).pipe(
  Layer.provide(Handlers),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

const ended = (id: Run.RunId) =>
  Jobsd.getRunState(id).pipe(Effect.delay("20 millis"), Effect.repeat({ until: ({ completedAt }) => completedAt !== null }))

const program = Effect.gen(function* () {
  const byJob = yield* ended(yield* Jobsd.createRun(Flaky))
  yield* Console.log(`by the job's policy: ${byJob.retriesOnErrorCount} errors, ${byJob.status}`)

  // 3. The run's: for this one alone. `Infinity` would be "no limit".
  const byRun = yield* ended(yield* Jobsd.createRun(Flaky, undefined, { retriesOnError: 0 }))
  yield* Console.log(`by the run's policy: ${byRun.retriesOnErrorCount} error, ${byRun.status}`)

  const mixed = yield* ended(yield* Jobsd.createRun(Mixed))
  yield* Console.log(`Mixed ${mixed.status}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
