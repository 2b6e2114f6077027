import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, DateTime, Effect, Fiber, Layer, Schema } from "effect"
import { Job, JobSchedule, Jobsd } from "jobsd"

// A job is a name and the shape of its payload.
const Announce = Job.make("Announce", { payload: { name: Schema.String } })

// A schedule is a name and a way to find the next moment.
const OnTheMinute = JobSchedule.cron("OnTheMinute", "* * * * *")

// A handler is an Effect. Interrupting it is how a run is cancelled.
const AnnounceLive = Announce.toLayer(
  Effect.fn(function* ({ name }) {
    const now = yield* DateTime.now
    yield* Console.log(`Hi ${name}! The time is ${DateTime.formatIso(now)}.`)
  })
)

// An instance knows some jobs and some schedules, and works on a database.
const JobsdLive = Jobsd.layer({ jobs: [Announce], schedules: [OnTheMinute] }).pipe(
  Layer.provide(AnnounceLive),
  Layer.provide(SqliteClient.layer({ filename: "jobs.db" }))
)

const program = Effect.gen(function* () {
  yield* Jobsd.createRun(Announce, { name: "Simon" }, { schedule: OnTheMinute, unique: "announce" })
  yield* Effect.never
})

const running = Effect.runFork(program.pipe(Effect.provide(JobsdLive), Effect.tapErrorCause(Effect.logError)))

// Ctrl-C ends it in good order: no more claims, running handlers may finish, every outcome is written.
process.once("SIGINT", () => Effect.runFork(Fiber.interrupt(running)))
