/** What goes wrong outside is told with the operation and what to do, and leaves nothing half done. */

import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, scoped } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { Job, Jobsd, type JobsdError } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

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
      yield* reaches(jobsd, id, "running")
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

describe("a database that is not there", () => {
  const layers = {
    postgres: PgClient.layer({ url: Redacted.make("postgres://nobody@127.0.0.1:1/none"), connectTimeout: "2 seconds" }),
    mysql: MysqlClient.layer({ host: "127.0.0.1", port: 1, database: "none", username: "nobody" }),
    sqlite: SqliteClient.layer({ filename: "/nowhere/at/all/jobs.db" })
  }
  for (const [name, layer] of Object.entries(layers)) {
    scoped(`stops the layer with an error (${name})`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Layer.build(Jobsd.layer({ jobs: [] }).pipe(Layer.provide(layer))))
        assert.strictEqual(exit._tag, "Failure")
      })
    )
  }
})
