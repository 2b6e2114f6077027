import { PgClient } from "@effect/sql-pg"
import { Config, Console, Effect, Layer, Redacted, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Add = Job.make("Add", { payload: { a: Schema.Number, b: Schema.Number }, success: Schema.Number })

// DATABASE_URL=postgres://user:password@host:5432/database
const Postgres = PgClient.layerConfig({
  url: Config.withDefault(Config.redacted("DATABASE_URL"), Redacted.make("postgres://localhost/postgres")),
  // at least two, so that a heartbeat finds one while the other is at work
  maxConnections: Config.succeed(10)
})

const JobsdLive = Jobsd.layer({ jobs: [Add] }).pipe(
  Layer.provide(Add.toLayer(({ a, b }) => Effect.succeed(a + b))),
  Layer.provide(Postgres)
)

const program = Effect.gen(function* () {
  const id = yield* Jobsd.createRun(Add, { a: 2, b: 3 })
  const { result, status } = yield* Jobsd.getRunState(id).pipe(
    Effect.delay("20 millis"),
    Effect.repeat({ until: ({ completedAt }) => completedAt !== null })
  )
  yield* Console.log(`2 + 3 = ${result}, ${status}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
