import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, DateTime, Effect, Layer, Schema } from "effect"
import { Job, JobSchedule, Jobsd, type Run } from "jobsd"

const Greet = Job.make("Greet", { payload: { name: Schema.String }, success: Schema.String })

// Fails at its first attempt.
const Moody = Job.make("Moody", { retriesOnError: 1 })

// Takes longer than it may.
const Slow = Job.make("Slow", { timeout: "100 millis", retriesOnTimeout: 0 })

const EverySecond = JobSchedule.make("EverySecond", (after) => DateTime.add(after, { seconds: 1 }))

const Handlers = Layer.mergeAll(
  Greet.toLayer(({ name }) => Effect.as(Console.log(`Hello ${name}!`), `greeted ${name}`)),
  Moody.toLayer((_, run) => (run.attempt === 1 ? Effect.fail("not in the mood") : Console.log(`Moody: attempt ${run.attempt} did it`))),
  Slow.toLayer(() => Effect.never)
)

const JobsdLive = Jobsd.layer({ jobs: [Greet, Moody, Slow], schedules: [EverySecond] }).pipe(
  Layer.provide(Handlers),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

// A state is a snapshot: refresh it until the run, and what follows from it, is over.
const ended = (id: Run.RunId, successes = 0) =>
  Jobsd.getRunState(id).pipe(
    Effect.flatMap((state) =>
      Jobsd.refresh(state).pipe(
        Effect.delay("20 millis"),
        Effect.repeat({ until: (state) => state.completedAt !== null && state.successCount >= successes })
      )
    )
  )

const program = Effect.gen(function* () {
  // Now.
  const now = yield* ended(yield* Jobsd.createRun(Greet, { name: "Ada" }))
  yield* Console.log(`${now.job} ${now.status}: ${now.result}`)

  // Later.
  const later = yield* ended(yield* Jobsd.createRun(Greet, { name: "Grace" }, { delay: "500 millis" }))
  const waited = DateTime.distance(later.createdAt, later.startedAt ?? later.createdAt)
  yield* Console.log(`delayed by ${Math.round(waited / 100) * 100} ms`)

  // On a schedule, until it has succeeded twice.
  const chain = yield* Jobsd.createRun(Greet, { name: "Alan" }, { schedule: EverySecond, limit: 2 })
  yield* Console.log(`succeeded ${(yield* ended(chain, 2)).successCount} times`)

  // Once, however many ask for it.
  const asked = yield* Effect.replicateEffect(Jobsd.createRun(Greet, { name: "Edsger" }, { unique: "edsger", delay: "300 millis" }), 10)
  yield* ended(asked[0]!)
  yield* Console.log(`asked ${asked.length} times, ${new Set(asked).size} run`)

  // Many at once.
  const many = yield* Jobsd.createRuns(Greet, [{ name: "Barbara" }, { name: "Tony" }])
  yield* Effect.forEach(many, (id) => ended(id))

  // An error is tried again.
  const moody = yield* ended(yield* Jobsd.createRun(Moody))
  yield* Console.log(`${moody.job} ${moody.status} after ${moody.retriesOnErrorCount} error`)

  // A timeout interrupts.
  const slow = yield* ended(yield* Jobsd.createRun(Slow))
  yield* Console.log(`${slow.job} ${slow.status}: ${slow.completedError}`)

  // What this instance has done so far.
  const { counts } = yield* Jobsd.instance
  yield* Console.log(`started ${counts.started}, succeeded ${counts.succeeded}, errors ${counts.errors}, timed out ${counts.timedOut}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
