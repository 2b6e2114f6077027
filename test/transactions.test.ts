/** createRun takes part in the caller's transaction, and nothing else of ours does. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { Job, Jobsd } from "jobsd"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const Mail = Job.make("Mail")

onEveryDatabase("createRun in the caller's transaction", (it, database) => {
  it.scoped("is seen when it commits, and not before", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Order")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const other = yield* Layer.build(clientLayer((yield* Target).url, 1))
      // run on its own, or Effect 3 would let it into the transaction that is open around it
      const count = Effect.promise(() =>
        Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe<{ n: number }>(`SELECT COUNT(*) AS n FROM ${world.prefix}_runs`)).pipe(
          Effect.map(([row]) => Number(row?.n)),
          Effect.provide(other),
          Effect.runPromise
        )
      )
      const id = yield* world.sql.withTransaction(
        Effect.gen(function* () {
          const id = yield* jobsd.createRun(job, undefined)
          assert.strictEqual(yield* count, 0)
          return id
        })
      )
      yield* reaches(jobsd, id, "succeeded")
      assert.lengthOf(calls, 1)
    })
  )

  it.scoped("is gone when it rolls back, and its unique key is free", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      yield* world.unsafe("CREATE TABLE @_orders (id INT)")
      const result = yield* world.unsafe("INSERT INTO @_orders VALUES (1)").pipe(
        Effect.zipRight(jobsd.createRun(Mail, undefined, { unique: "mail" })),
        Effect.flatMap((id) => Effect.fail({ id })),
        world.sql.withTransaction,
        Effect.flip
      )
      assert.property(result, "id")
      assert.lengthOf(yield* world.rows("runs"), 0)
      assert.deepStrictEqual(Number((yield* world.unsafe("SELECT COUNT(*) AS n FROM @_orders"))[0]?.n), 0)
      if (!("id" in result)) return
      assert.strictEqual((yield* Effect.flip(jobsd.getRunState(result.id)))._tag, "RunNotFound")
      assert.notStrictEqual(yield* jobsd.createRun(Mail, undefined, { unique: "mail" }), result.id)
    })
  )

  it.scoped("takes part in a nested transaction, which can roll back alone", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const kept = yield* world.sql.withTransaction(
        Effect.gen(function* () {
          const outer = yield* jobsd.createRun(Mail, undefined, { unique: "outer" })
          yield* jobsd
            .createRun(Mail, undefined, { unique: "inner" })
            .pipe(Effect.zipRight(Effect.fail("no")), world.sql.withTransaction, Effect.ignore)
          // a key held is no error, and does not end the transaction
          assert.strictEqual(yield* jobsd.createRun(Mail, undefined, { unique: "outer" }), outer)
          return outer
        })
      )
      assert.deepStrictEqual(
        (yield* world.rows("runs")).map((row) => row.id),
        [kept]
      )
    })
  )

  it.scoped("does not follow a transaction of another client into its database", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      // another database, of the same kind where that is possible
      const elsewhere = yield* Layer.build(clientLayer(database === "sqlite" ? ":memory:" : (yield* Target).url, 2))
      const id = yield* Effect.flatMap(SqlClient.SqlClient, (sql) =>
        jobsd.createRun(Mail, undefined).pipe(
          Effect.flatMap((id) => Effect.fail(id)),
          sql.withTransaction,
          Effect.flip
        )
      ).pipe(Effect.provide(elsewhere))
      // the other client's rollback is none of ours
      assert.deepStrictEqual(
        (yield* world.rows("runs")).map((row) => row.id),
        [id]
      )
    })
  )

  it.scoped("leaves handlers outside of it, even if the layer is built inside", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const Inner = Job.make("Inner")
      const seen = yield* Deferred.make<boolean>()
      const handlers = Inner.toLayer(() =>
        Effect.flatMap(Effect.serviceOption(SqlClient.TransactionConnection), (open) => Deferred.succeed(seen, open._tag === "Some"))
      )
      // SQLite has one connection, so that an instance could not start while a transaction has it
      const start = world.start(handlers, { jobs: [Inner] })
      const jobsd = yield* database === "sqlite" ? start : world.sql.withTransaction(start)
      yield* jobsd.createRun(Inner, undefined)
      assert.isFalse(yield* Deferred.await(seen))
    })
  )

  it.scoped("does not lose a run whose transaction commits long after it was created", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Late")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const created = yield* Deferred.make<void>()
      const commit = yield* Deferred.make<void>()
      const fiber = yield* jobsd
        .createRun(job, undefined)
        .pipe(
          Effect.zipLeft(Deferred.succeed(created, undefined)),
          Effect.zipLeft(Deferred.await(commit)),
          world.sql.withTransaction,
          Effect.fork
        )
      yield* Deferred.await(created)
      yield* Effect.sleep("300 millis")
      assert.lengthOf(calls, 0)
      yield* Deferred.succeed(commit, undefined)
      yield* reaches(jobsd, yield* Fiber.join(fiber), "succeeded")
    })
  )

  it.scoped("is unaffected by a handler's own transactions", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Parent = Job.make("Parent", { retriesOnError: 0 })
      const handlers = Parent.toLayer(() =>
        Effect.flatMap(SqlClient.SqlClient, (sql) =>
          sql.withTransaction(Effect.zipRight(Jobsd.createRun(Mail), Effect.fail("rolled back")))
        )
      ).pipe(Layer.provide(Layer.succeed(SqlClient.SqlClient, world.sql)))
      const jobsd = yield* world.start(handlers, { jobs: [Parent] })
      const id = yield* jobsd.createRun(Parent, undefined)
      yield* reaches(jobsd, id, "failed")
      yield* eventually(world.rows("runs"), (rows) => rows.length === 1)
    })
  )
})
