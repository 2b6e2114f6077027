import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, DateTime, Effect, Layer, Schema } from "effect"
import { Job, JobSchedule, Jobsd, type Run } from "jobsd"

const Hello = Job.make("Hello", { payload: { to: Schema.String }, success: Schema.String })

// Fails at its first attempt.
const Moody = Job.make("Moody", { retriesOnError: 1 })

// Takes longer than it may.
const Slow = Job.make("Slow", { timeout: "100 millis", retriesOnTimeout: 0 })

const EverySecond = JobSchedule.make("EverySecond", (after) => DateTime.add(after, { seconds: 1 }))

const Handlers = Layer.mergeAll(
  Hello.toLayer(({ to }) => Effect.as(Console.log(`Hello ${to}!`), `greeted ${to}`)),
  Moody.toLayer((_, run) => (run.attempt === 1 ? Effect.fail("not in the mood") : Effect.void)),
  Slow.toLayer(() => Effect.never)
)

const JobsdLive = Jobsd.layer({ jobs: [Hello, Moody, Slow], schedules: [EverySecond] }).pipe(
  Layer.provide(Handlers),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

// A state is a snapshot: a new one is asked for until the run, and with a schedule the last that follows from it, is over.
const ended = (id: Run.RunId) =>
  Effect.gen(function* () {
    let state = yield* Jobsd.getRunState(id)
    while (state.completedAt === null) state = yield* Effect.delay(Jobsd.refresh(state), "20 millis")
    return state
  })

const program = Effect.gen(function* () {
  // Now.
  const a = yield* Jobsd.createRun(Hello, { to: "World A" })

  // Later; `runAt` takes a moment instead.
  const b = yield* Jobsd.createRun(Hello, { to: "World B" }, { delay: "1 second" })

  // On a schedule, until it has succeeded twice.
  const c = yield* Jobsd.createRun(Hello, { to: "World C" }, { schedule: EverySecond, limit: 2 })

  // On a schedule that begins a second later.
  const d = yield* Jobsd.createRun(Hello, { to: "World D" }, { schedule: EverySecond, limit: 2, delay: "1 second" })

  // Once, however many ask for it, here or on other instances: all of them get the same id.
  const e = yield* Effect.replicateEffect(Jobsd.createRun(Hello, { to: "World E" }, { unique: "e", delay: "1 second" }), 10, {
    concurrency: "unbounded"
  })

  // One chain of runs, however often the program starts.
  const f = yield* Jobsd.createRun(Hello, { to: "World F" }, { unique: "f", schedule: EverySecond, limit: 2 })

  // Many at once: all of them, or none.
  const g = yield* Jobsd.createRuns(Hello, [{ to: "World G" }, { to: "World H" }])

  for (const id of [a, b, c, d, ...new Set(e), f, ...g]) {
    const { createdAt, result, runAt, status, successCount } = yield* ended(id)
    yield* Console.log(`${result}: ${status}, successes ${successCount}, due after ${DateTime.distance(createdAt, runAt)} ms`)
  }
  yield* Console.log(`asked ${e.length} times for World E, ${new Set(e).size} run`)

  // An error is tried again.
  const moody = yield* ended(yield* Jobsd.createRun(Moody))
  yield* Console.log(`${moody.job}: ${moody.status} at attempt ${moody.attempt}`)

  // A timeout interrupts.
  const slow = yield* ended(yield* Jobsd.createRun(Slow))
  yield* Console.log(`${slow.job}: ${slow.status}, ${slow.completedError}`)

  // What this instance has done so far.
  const { counts } = yield* Jobsd.instance
  yield* Console.log(`started ${counts.started}, succeeded ${counts.succeeded}, errors ${counts.errors}, timed out ${counts.timedOut}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
