import { SqliteClient } from "@effect/sql-sqlite-node"
import { Config, Console, Effect, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Add = Job.make("Add", { payload: { a: Schema.Number, b: Schema.Number }, success: Schema.Number })

// DATABASE_FILE=jobs.db, which several processes may share; ":memory:" is this process's alone
const Sqlite = SqliteClient.layerConfig({ filename: Config.withDefault(Config.string("DATABASE_FILE"), ":memory:") })

const JobsdLive = Jobsd.layer({ jobs: [Add] }).pipe(Layer.provide(Add.toLayer(({ a, b }) => Effect.succeed(a + b))), Layer.provide(Sqlite))

const program = Effect.gen(function* () {
  const id = yield* Jobsd.createRun(Add, { a: 2, b: 3 })
  const { result, status } = yield* Jobsd.getRunState(id).pipe(
    Effect.delay("20 millis"),
    Effect.repeat({ until: ({ completedAt }) => completedAt !== null })
  )
  yield* Console.log(`2 + 3 = ${result}, ${status}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
