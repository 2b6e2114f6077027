import { SqlClient } from "@effect/sql"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Confirm = Job.make("Confirm", { payload: { order: Schema.Int } })

const ConfirmLive = Confirm.toLayer(({ order }) => Console.log(`order ${order} is confirmed`))

// Jobsd and the program share the client, so that they can share a transaction.
const Sqlite = SqliteClient.layer({ filename: ":memory:" })
const Live = Jobsd.layer({ jobs: [Confirm] }).pipe(Layer.provide(ConfirmLive), Layer.provideMerge(Sqlite))

/** The order and the run that confirms it: both, or neither. */
const place = (order: number, inStock: boolean) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    return yield* sql.withTransaction(
      Effect.gen(function* () {
        yield* sql`INSERT INTO orders ${sql.insert({ id: order })}`
        const run = yield* Jobsd.createRun(Confirm, { order })
        if (!inStock) return yield* Effect.fail("out of stock" as const)
        return run
      })
    )
  })

const program = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE orders (id INTEGER PRIMARY KEY)`

  // Committed: the run is there, and starts.
  const run = yield* place(1, true)
  yield* Jobsd.getRunState(run).pipe(Effect.delay("20 millis"), Effect.repeat({ until: ({ completedAt }) => completedAt !== null }))

  // Rolled back: there never was one.
  yield* Console.log(`order 2: ${yield* Effect.flip(place(2, false))}`)

  const orders = yield* sql<{ id: number }>`SELECT id FROM orders`
  const runs = yield* sql<{ payload: string }>`SELECT payload FROM jobsd_runs`
  yield* Console.log(`orders: ${orders.map(({ id }) => id)}; runs: ${runs.map(({ payload }) => payload)}`)
})

await Effect.runPromise(Effect.provide(program, Live))
