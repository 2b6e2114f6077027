import { MysqlClient } from "@effect/sql-mysql2"
import { Config, Console, Effect, Layer, Redacted, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Add = Job.make("Add", { payload: { a: Schema.Number, b: Schema.Number }, success: Schema.Number })

// DATABASE_URL=mysql://user:password@host:3306/database, for MySQL and MariaDB
const Mysql = Config.withDefault(Config.url("DATABASE_URL"), new URL("mysql://root@localhost:3306/test")).pipe(
  Effect.map((url) =>
    // not as one `url`: the driver would ignore the size of its pool
    MysqlClient.layer({
      host: url.hostname,
      port: Number(url.port || 3306),
      username: decodeURIComponent(url.username),
      password: Redacted.make(decodeURIComponent(url.password)),
      database: url.pathname.slice(1),
      maxConnections: 10,
      // without it the driver closes every idle connection each second
      poolConfig: { maxIdle: 10 }
    })
  ),
  Layer.unwrapEffect
)

const JobsdLive = Jobsd.layer({ jobs: [Add] }).pipe(Layer.provide(Add.toLayer(({ a, b }) => Effect.succeed(a + b))), Layer.provide(Mysql))

const program = Effect.gen(function* () {
  const id = yield* Jobsd.createRun(Add, { a: 2, b: 3 })
  const { result, status } = yield* Jobsd.getRunState(id).pipe(
    Effect.delay("20 millis"),
    Effect.repeat({ until: ({ completedAt }) => completedAt !== null })
  )
  yield* Console.log(`2 + 3 = ${result}, ${status}`)
})

await Effect.runPromise(Effect.provide(program, JobsdLive))
