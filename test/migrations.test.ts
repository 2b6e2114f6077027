/** The tables, made by whoever comes first. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Jobsd } from "jobsd"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { counted, freshPrefix, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("migrations", (it, database) => {
  it.scoped("are safe when ten instances start at once on an empty database", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("First")
      const url = (yield* Target).url
      // ten clients, as if they were ten processes
      const ten = yield* Effect.forEach(
        Array.from({ length: 10 }),
        () =>
          Layer.build(
            Jobsd.layer({ jobs: [job], tablePrefix: world.prefix }).pipe(Layer.provide(live), Layer.provide(clientLayer(url, 2)))
          ),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(ten, 10)
      assert.lengthOf(yield* world.rows("instances"), 10)
      const versions = yield* world.unsafe("SELECT version FROM @_migrations")
      assert.deepStrictEqual(
        versions.map((row) => Number(row.version)),
        [1]
      )
      const jobsd = yield* world.client()
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
    })
  )

  it.scoped("can be run by hand, any number of times", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* Effect.replicateEffect(world.migrate, 5, { concurrency: "unbounded" })
      yield* world.migrate
      const { job, live } = counted("Any")
      const jobsd = yield* world.start(live, { jobs: [job], autoMigrate: false })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
    })
  )

  it.scoped("are asked for when autoMigrate is off and the tables are not there", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Any")
      const error = yield* Effect.flip(world.start(live, { jobs: [job], autoMigrate: false }))
      assert.deepInclude(error, { _tag: "SchemaVersionError", found: 0, supported: 1 })
      assert.include(String((error as Error).message), "Jobsd.migrate")
      const clients = yield* Effect.flip(world.client())
      assert.strictEqual(clients._tag, "SchemaVersionError")
    })
  )

  it.scoped("of a newer version are refused, and nothing is changed", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      yield* world.unsafe("INSERT INTO @_migrations (version, applied_at) VALUES (99, 0)")
      const { job, live } = counted("Any")
      for (const attempt of [world.start(live, { jobs: [job] }), world.client(), world.migrate]) {
        const error = yield* Effect.flip(attempt)
        assert.deepInclude(error, { _tag: "SchemaVersionError", found: 99, supported: 1 })
        assert.include(String((error as Error).message), "upgrade the package")
      }
      assert.lengthOf(yield* world.rows("instances"), 0)
    })
  )

  it.scoped("continue where a crash left them", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      // the step was done, but not recorded: where DDL commits by itself, a crash can leave that
      yield* world.unsafe("DELETE FROM @_migrations")
      yield* world.migrate
      const { job, live } = counted("Any")
      const jobsd = yield* world.start(live, { jobs: [job] })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
    })
  )

  it.scoped("keep prefixes apart, and refuse names that are none", () =>
    Effect.gen(function* () {
      const first = yield* makeWorld
      const second = yield* makeWorld
      const { job, live } = counted("Apart")
      const jobsd = yield* first.start(live, { jobs: [job] })
      const other = yield* second.start(Layer.empty, { jobs: [] })
      const id = yield* jobsd.createRun(job, undefined, { unique: "same" })
      const otherId = yield* other.createRun(job, undefined, { unique: "same" })
      assert.notStrictEqual(id, otherId)
      yield* reaches(jobsd, id, "succeeded")
      assert.strictEqual((yield* other.getRunState(otherId)).status, "ready")
      for (const tablePrefix of ["", "Jobs", "1a", "a-b", 'a"; DROP TABLE x; --', "a".repeat(32)]) {
        const error = yield* Effect.flip(Jobsd.migrate({ tablePrefix }))
        assert.deepInclude(error, { _tag: "SettingsError", setting: "tablePrefix" })
      }
      const longest = "z".repeat(31)
      yield* Jobsd.migrate({ tablePrefix: longest })
    })
  )

  it.scoped("make views that people can read", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Viewed")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const id = yield* jobsd.createRun(job, undefined, { unique: "viewed" })
      const state = yield* reaches(jobsd, id, "succeeded")
      const readable = (column: string) =>
        database === "postgres"
          ? `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')`
          : database === "mysql"
            ? `CAST(${column} AS CHAR)`
            : column
      const [row] = yield* world.unsafe(
        `SELECT id, job, name, status, ${readable("run_at")} AS due, ${readable("finished_at")} AS finished FROM @_runs_view`
      )
      assert.deepInclude(row, { id, job: "Viewed", name: "viewed", status: "succeeded" })
      const text = (date: Date) => date.toISOString().replace("T", " ").replace("Z", "")
      assert.strictEqual(String(row?.due).slice(0, 23), text(new Date(state.runAt.epochMillis)))
      assert.strictEqual(String(row?.finished).slice(0, 23), text(new Date(state.completedAt?.epochMillis ?? 0)))
      const [instance] = yield* world.unsafe("SELECT status FROM @_instances_view")
      assert.strictEqual(instance?.status, "alive")
    })
  )
})

onEveryDatabase("Jobsd.migrate", (it) => {
  it.scoped("works in a program of its own", () =>
    Effect.gen(function* () {
      const prefix = freshPrefix()
      yield* Jobsd.migrate({ tablePrefix: prefix })
      const sql = yield* SqlClient.SqlClient
      assert.deepStrictEqual(yield* sql.unsafe(`SELECT id FROM ${prefix}_runs`), [])
    })
  )
})
