/** What goes wrong outside is told with the operation and what to do, and leaves nothing half done. */
import { renameSync } from "node:fs"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { SqlClient, type SqlError } from "@effect/sql"
import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, scoped } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Option, Redacted } from "effect"
import { Job, Jobsd, type JobsdError, type Run } from "jobsd"
import { make as makeFaulty } from "./faults/support/faultyClient.js"
import { startProxy } from "./faults/support/proxy.js"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "./support/world.js"

const Plain = Job.make("Plain")

onEveryDatabase("an error of the database", (it) => {
  it.scoped("because of missing tables says what to do", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const id = yield* jobsd.createRun(Plain, undefined)
      yield* world.unsafe("DROP VIEW @_runs_view")
      yield* world.unsafe("DROP TABLE @_runs")
      const failures: ReadonlyArray<Effect.Effect<unknown, { readonly _tag: string }>> = [
        jobsd.createRun(Plain, undefined),
        jobsd.getRunState(id),
        jobsd.cancel(id)
      ]
      for (const failure of failures) {
        const error = yield* Effect.flip(failure)
        assert.deepInclude(error as unknown as JobsdError.StorageError, { _tag: "StorageError", reason: "missingTables" })
        assert.match(String((error as unknown as Error).message), /jobsd could not (create|read) a run: .*Jobsd\.migrate/)
      }
    })
  )

  it.scoped("does not end the loops: they go on when it is over, and lose nothing", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Survivor", Effect.sleep("400 millis"))
      const jobsd = yield* world.start(live, { jobs: [job], leaseDuration: "10 seconds" })
      const id = yield* jobsd.createRun(job, undefined)
      // a run is running in the table before the claim has read it, on MySQL
      yield* hasStarted(jobsd)
      yield* world.unsafe("ALTER TABLE @_runs RENAME TO @_away")
      yield* eventually(
        Effect.sync(() => world.logs),
        (logs) => logs.some(({ message }) => message.includes("could not record outcomes") && message.includes("settle runs"))
      )
      yield* world.unsafe("ALTER TABLE @_away RENAME TO @_runs")
      yield* reaches(jobsd, id, "succeeded")
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
      assert.lengthOf(calls, 2)
    })
  )

  it.scoped("in a handler's text never reaches a caller without the operation", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      yield* world.unsafe("DROP VIEW @_runs_view")
      yield* world.unsafe("ALTER TABLE @_runs DROP COLUMN late")
      const error = yield* Effect.flip(jobsd.createRun(Plain, undefined))
      assert.deepInclude(error, { _tag: "StorageError", operation: "create a run", reason: "rejected" })
      assert.isDefined((error as { readonly cause?: unknown }).cause)
    })
  )
})

/** What is asked of a client, and what its errors call that. To cancel a run is to look at it first. */
const asked = (jobsd: Pick<Jobsd.Jobsd.Service, "createRun" | "getRunState" | "cancel">, id: Run.RunId) =>
  [
    ["create a run", jobsd.createRun(Plain, undefined)],
    ["read a run", jobsd.getRunState(id)],
    ["read a run", jobsd.cancel(id)]
  ] as ReadonlyArray<readonly [operation: string, question: Effect.Effect<unknown, Error>]>

const isStorageError = (error: Error, operation: string, reason: JobsdError.StorageError["reason"], advice: string) => {
  assert.deepInclude(error as JobsdError.StorageError, { _tag: "StorageError", operation, reason })
  assert.strictEqual(error.message, `jobsd could not ${operation}: ${advice}`)
}

/** Another address of a server, that can be taken away and given back: nobody answers there then, and all connections are gone. */
const makeAddress = (serverUrl: string) =>
  Effect.gen(function* () {
    const target = new URL(serverUrl)
    const sockets = new Set<Socket>()
    const join = (from: Socket, to: Socket) => {
      sockets.add(from)
      from.on("error", () => {})
      from.on("close", () => {
        sockets.delete(from)
        to.destroy()
      })
      from.pipe(to)
    }
    const listener = createServer((client) => {
      const server = connect(Number(target.port), target.hostname)
      join(client, server)
      join(server, client)
    })
    const listen = (port: number) => Effect.async<void>((resume) => void listener.listen(port, "127.0.0.1", () => resume(Effect.void)))
    const close = Effect.async<void>((resume) => {
      listener.close(() => resume(Effect.void))
      for (const socket of sockets) socket.destroy()
    })
    yield* listen(0)
    yield* Effect.addFinalizer(() => close)
    const { port } = listener.address() as AddressInfo
    const url = new URL(serverUrl)
    url.port = String(port)
    return { url: url.toString(), take: close, giveBack: listen(port) }
  })

onEveryDatabase("a database that goes away", (it, database) => {
  /** a client, and the means to take the database away from it */
  const makeLink = Effect.gen(function* () {
    const { url } = yield* Target
    if (database === "sqlite") {
      // a file stays with who has it open, even when it is moved or removed: what can go away is the disk below it
      const faulty = makeFaulty(yield* SqlClient.SqlClient)
      const cause = Object.assign(new Error("disk I/O error"), { code: "SQLITE_IOERR" })
      return {
        sql: faulty.sql,
        take: Effect.sync(() => {
          for (const at of ["create", "look", "claim", "other"] as const) faulty.arm({ at, when: "before", act: { do: "fail", cause } })
        }),
        giveBack: Effect.sync(faulty.disarm)
      }
    }
    const address = yield* makeAddress(url)
    return { ...address, sql: Context.get(yield* Layer.build(clientLayer(address.url, 4)), SqlClient.SqlClient) }
  })
  const unavailable = (error: Error, operation: string) => {
    isStorageError(error, operation, "unavailable", "the database could not be reached")
    assert.match(String((error as JobsdError.StorageError).cause), database === "sqlite" ? /disk I\/O error/ : /ECONNREFUSED/)
  }

  for (const kind of ["client", "instance"] as const) {
    it.scoped(`fails whatever is asked of a live ${kind}, which goes on when it is back`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        yield* world.migrate
        const link = yield* makeLink
        const { client, start } = world.on(link.sql)
        const { calls, job, live } = counted("Plain")
        const jobsd = yield* kind === "client" ? client() : start(live, { jobs: [job] })
        const waiting = yield* jobsd.createRun(Plain, undefined, { delay: "1 hour" })
        yield* link.take
        for (const [operation, question] of asked(jobsd, waiting)) unavailable(yield* Effect.flip(question), operation)
        yield* link.giveBack
        assert.strictEqual((yield* jobsd.getRunState(waiting)).status, "ready")
        assert.strictEqual(yield* jobsd.cancel(waiting), "cancelled")
        const next = yield* jobsd.createRun(Plain, undefined)
        yield* reaches(jobsd, next, kind === "client" ? "ready" : "succeeded")
        assert.lengthOf(calls, kind === "client" ? 0 : 1)
        // what could not be created was not
        assert.lengthOf(yield* world.rows("runs"), 2)
      })
    )
  }

  it.scoped("before an instance or a client is built stops it with an error", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const link = yield* makeLink
      const { client, start } = world.on(link.sql)
      yield* link.take
      for (const build of [start(Layer.empty, { jobs: [] }), client()]) {
        const error = yield* Effect.flip(build)
        // a pool may hand out a connection once more before it hears that it is gone
        const isFirstQuestion = "operation" in error && error.operation === "read the version of the tables"
        unavailable(error, isFirstQuestion ? error.operation : "connect")
      }
      yield* link.giveBack
      yield* start(Layer.empty, { jobs: [] })
    })
  )

  if (database === "sqlite") {
    it.scoped("and is a file that was moved cannot be written, and is still read; with what the driver really says", () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const filename = `${(yield* Target).url}-moved`
        // with WAL, SQLite goes on with the file that it has open
        const context = yield* Layer.build(Layer.orDie(SqliteClient.layer({ filename, disableWAL: true })))
        const { client, sql } = world.on(Context.get(context, SqlClient.SqlClient))
        yield* Effect.provideService(Jobsd.migrate({ tablePrefix: world.prefix }), SqlClient.SqlClient, sql)
        const jobsd = yield* client()
        const id = yield* jobsd.createRun(Plain, undefined, { delay: "1 hour" })
        renameSync(filename, `${filename}-away`)
        const moved = { reason: "unavailable", cause: { code: "SQLITE_READONLY_DBMOVED" } }
        assert.containSubset(yield* Effect.flip(jobsd.createRun(Plain, undefined)), { ...moved, operation: "create a run" })
        assert.containSubset(yield* Effect.flip(jobsd.cancel(id)), { ...moved, operation: "cancel a run" })
        assert.strictEqual((yield* jobsd.getRunState(id)).status, "ready")
        renameSync(`${filename}-away`, filename)
        assert.strictEqual(yield* jobsd.cancel(id), "cancelled")
      })
    )
  }

  // where there is a way for an answer to be lost on
  it.scoped.skipIf(database === "sqlite")("while it answers leaves it open whether that was written, and says so", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const proxy = yield* startProxy((yield* Target).url)
      const sql = Context.get(yield* Layer.build(clientLayer(proxy.url, 4)), SqlClient.SqlClient)
      const jobsd = yield* world.on(sql).client()
      const advice = "the connection was lost before the answer came; it may or may not have happened"
      proxy.onEach((kind) => (kind === "create" || kind === "cancel" ? { do: "cut", when: "after" } : null))
      isStorageError(yield* Effect.flip(jobsd.createRun(Plain, undefined)), "create a run", "ambiguous", advice)
      // it has happened, once, however often it was tried
      const rows = yield* world.rows<{ readonly id: Run.RunId; readonly state: number }>("runs")
      assert.deepStrictEqual(
        rows.map(({ state }) => Number(state)),
        [0]
      )
      isStorageError(yield* Effect.flip(jobsd.cancel(rows[0]!.id)), "cancel a run", "ambiguous", advice)
      assert.strictEqual((yield* jobsd.getRunState(rows[0]!.id)).status, "cancelled")
      // nothing is left open by a question
      proxy.onEach((kind) => (kind === "other" ? { do: "cut", when: "after" } : null))
      isStorageError(yield* Effect.flip(jobsd.getRunState(rows[0]!.id)), "read a run", "unavailable", "the database could not be reached")
      proxy.disarm()
      assert.strictEqual(yield* jobsd.cancel(rows[0]!.id), "finished")
    })
  )
})

describe("a client whose database is not there", () => {
  const none = <A, E>(client: Layer.Layer<SqlClient.SqlClient, E, A>) =>
    Effect.exit(Layer.build(Jobsd.layer({ jobs: [] }).pipe(Layer.provide(client))))
  // all three end before jobsd has a client to ask
  const servers = {
    postgres: PgClient.layer({ url: Redacted.make("postgres://nobody@127.0.0.1:1/none"), connectTimeout: "2 seconds" }),
    mysql: MysqlClient.layer({ host: "127.0.0.1", port: 1, database: "none", username: "nobody" })
  }
  for (const [name, client] of Object.entries(servers)) {
    scoped(`stops the layer with the client's own error (${name})`, () =>
      Effect.gen(function* () {
        const exit = yield* none<never, unknown>(client)
        const error = Exit.isFailure(exit) ? Option.getOrNull(Cause.failureOption(exit.cause)) : null
        assert.deepInclude(error as unknown as SqlError.SqlError, { _tag: "SqlError" })
        assert.match(String((error as SqlError.SqlError).cause), /ECONNREFUSED/)
      })
    )
  }

  scoped("stops the layer as the driver does, which throws (sqlite)", () =>
    Effect.gen(function* () {
      const exit = yield* none(SqliteClient.layer({ filename: "/nowhere/at/all/jobs.db" }))
      const defect = Exit.isFailure(exit) ? Option.getOrNull(Cause.dieOption(exit.cause)) : null
      assert.match(String(defect), /Cannot open database because the directory does not exist/)
    })
  )
})
