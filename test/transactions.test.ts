/** createRun takes part in the caller's transaction, and nothing else of ours does. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option } from "effect"
import { Job, Jobsd } from "jobsd"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "./support/world.js"

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

  it.scoped("leaves an instance that is started inside of it outside: its handlers and its loops", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* (yield* world.apart).client()
      const Inner = Job.make("Inner")
      const inTransaction: Array<boolean> = []
      const handlers = Inner.toLayer(() =>
        Effect.map(Effect.serviceOption(SqlClient.TransactionConnection), (open) => inTransaction.push(open._tag === "Some"))
      )
      const first = yield* client.createRun(Inner, undefined)
      const starting = yield* Effect.gen(function* () {
        const starting = yield* Effect.forkDaemon(world.start(handlers, { jobs: [Inner], leaseDuration: "3 seconds" }))
        // SQLite's only connection is the transaction's: there it starts when that is over, and who waited for it in here would for ever
        if (database === "sqlite") {
          yield* Effect.sleep("100 millis")
          assert.isTrue(Option.isNone(yield* Fiber.poll(starting)))
        } else {
          const jobsd = yield* Fiber.join(starting)
          yield* reaches(client, first, "succeeded")
          yield* jobsd.createRun(Inner, undefined)
        }
        return yield* Effect.fail(starting)
      }).pipe(world.sql.withTransaction, Effect.flip)
      if (!Fiber.isFiber(starting)) throw starting
      const jobsd = yield* Fiber.join(starting)

      // what the loops wrote meanwhile was not rolled back
      yield* reaches(client, first, "succeeded")
      const { id, lastSeenAt } = yield* jobsd.instance
      assert.deepStrictEqual(
        (yield* world.rows("instances")).map((row) => [row.id, Number(row.state)]),
        [[id, 0]]
      )
      assert.deepStrictEqual(
        (yield* world.rows("runs")).map((row) => [row.id, row.owner, Number(row.state)]),
        [[first, null, 2]]
      )
      // and they go on
      yield* reaches(client, yield* client.createRun(Inner, undefined), "succeeded")
      yield* eventually(jobsd.instance, (now) => now.lastSeenAt.epochMillis > lastSeenAt.epochMillis)
      assert.strictEqual((yield* jobsd.instance).id, id)
      assert.deepStrictEqual(inTransaction, [false, false])
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

  it.scoped("leaves out what other fibers create meanwhile, and what they read is not in it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const before = yield* jobsd.createRun(Mail, undefined)
      const beside = yield* Deferred.make<void>()
      const asked = yield* Effect.fork(
        Effect.zipRight(
          Deferred.await(beside),
          Effect.all([jobsd.createRun(Mail, undefined), jobsd.cancel(before), jobsd.getRunState(before)], { concurrency: "unbounded" })
        )
      )
      yield* jobsd.createRun(Mail, undefined).pipe(
        Effect.zipRight(jobsd.cancel(before)),
        Effect.zipRight(Deferred.succeed(beside, undefined)),
        // a look at the table gives the others a turn each time; SQLite's wait for its only connection
        Effect.zipRight(Effect.repeatN(Effect.zipRight(Effect.yieldNow(), world.sql.unsafe("SELECT 1")), 100)),
        Effect.zipRight(Effect.fail("rolled back")),
        world.sql.withTransaction,
        Effect.flip
      )
      const [id, cancelled] = yield* Fiber.join(asked)
      assert.strictEqual(cancelled, "cancelled")
      const rows = yield* world.rows<{ readonly id: string; readonly state: number }>("runs")
      assert.sameDeepMembers(
        rows.map((row) => [row.id, Number(row.state)]),
        [
          [before, 4],
          [id, 0]
        ]
      )
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

  it.scoped("is what cancel, getRunState and instance take part in too", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Cancelled")
      const Long = Job.make("Long")
      const interrupted = yield* Deferred.make<void>()
      const jobsd = yield* world.start(
        Layer.merge(
          live,
          Long.toLayer(() => Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined)))
        ),
        { jobs: [job, Long], leaseDuration: "3 seconds" }
      )
      const waiting = yield* jobsd.createRun(job, undefined, { delay: "1 hour" })
      const running = yield* jobsd.createRun(Long, undefined)
      yield* hasStarted(jobsd)
      const both = Effect.gen(function* () {
        const results = [yield* jobsd.cancel(waiting), yield* jobsd.cancel(running)]
        const { status } = yield* jobsd.getRunState(waiting)
        const { id } = yield* jobsd.instance
        return { results, status, id }
      })
      yield* Effect.flip(world.sql.withTransaction(Effect.zipRight(both, Effect.fail("no"))))
      assert.strictEqual((yield* jobsd.getRunState(waiting)).status, "ready")
      const [row] = yield* world.rows("runs", `WHERE id = '${running}'`)
      assert.isNull(row?.cancel_at)
      assert.isFalse(yield* Deferred.isDone(interrupted))

      const seen = yield* world.sql.withTransaction(both)
      assert.deepStrictEqual(seen.results, ["cancelled", "requested"])
      assert.strictEqual(seen.status, "cancelled")
      assert.strictEqual(seen.id, (yield* jobsd.instance).id)
      yield* Deferred.await(interrupted)
      yield* reaches(jobsd, running, "cancelled")
      assert.strictEqual((yield* jobsd.getRunState(waiting)).status, "cancelled")
    })
  )

  it.scoped.skipIf(database !== "sqlite")("does not wait for ever for the only connection when a layer is built inside of it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const { job, live } = counted("Inside")
      const error = yield* Effect.flip(world.sql.withTransaction(world.start(live, { jobs: [job] })))
      assert.deepInclude(error as object, { _tag: "StorageError", operation: "connect", reason: "unavailable" })
      // and the client goes on
      const jobsd = yield* world.start(live, { jobs: [job] })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
    })
  )
})
