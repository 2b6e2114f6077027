/** Deploys: many that start at once on an empty database, some that die while they make the tables, and some that are too old for them. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { Jobsd } from "jobsd"
import { onEveryDatabase, Target } from "../support/databases.js"
import { freshPrefix, reaches } from "../support/world.js"
import { large, limit, report } from "./support/campaign.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import { Act } from "./support/work.js"
import { spawnWorker, startWorker } from "./support/workers.js"

const versions = (prefix: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe<{ readonly version: number }>(`SELECT version FROM ${prefix}_migrations`)).pipe(
    Effect.orDie,
    Effect.map((rows) => rows.map(({ version }) => Number(version)))
  )

onEveryDatabase("a deploy", (it, database) => {
  for (const instances of large ? [10, 50] : [10]) {
    it.scoped(
      `of ${instances} processes at once on an empty database starts all of them, and makes the tables once`,
      () =>
        Effect.gen(function* () {
          const { url } = yield* Target
          const prefix = freshPrefix()
          const workers = yield* Effect.replicateEffect(spawnWorker({ url, prefix, migrateOnly: true, connections: 1 }), instances)
          const ends = yield* Effect.forEach(workers, (worker) => worker.exited)
          const failures = workers.flatMap((worker) => worker.said.flatMap((line) => (line.say === "failed" ? [line.text] : [])))
          const started = workers.filter((worker) => worker.said.some(({ say }) => say === "ready")).length
          const found = yield* versions(prefix)
          report({
            row: 61,
            what: `${instances} processes migrate at once`,
            database,
            count: instances,
            result: started === instances ? "passed" : "failed",
            figure: `${started} started, ${failures.length} failed, versions ${found.join(", ")}`
          })
          assert.deepStrictEqual(failures, [])
          assert.deepStrictEqual(
            ends,
            ends.map(() => 0)
          )
          assert.strictEqual(started, instances)
          assert.strictEqual(new Set(found).size, found.length)
          assert.isNotEmpty(found)
        }),
      limit(60, 120)
    )
  }

  it.scoped(
    "that is killed while it makes the tables is completed by the next one",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const faulty = makeFaulty(yield* SqlClient.SqlClient)
        yield* Effect.provideService(Jobsd.migrate({ tablePrefix: freshPrefix() }), SqlClient.SqlClient, faulty.sql)
        const steps = faulty.seen.filter(({ kind }) => kind === "migration step").length
        const points = [
          ...(large ? Array.from({ length: steps }, (_, i) => i + 1) : [1, 2, Math.ceil(steps / 2), steps]).map(
            (nth) => ({ at: "migration step", when: "after", nth }) as const
          ),
          { at: "migration record", when: "before", nth: 1 } as const,
          { at: "migration record", when: "after", nth: 1 } as const
        ]
        const finished: Array<number> = []
        const killed = { inSteps: 0, atRecord: 0 }
        for (const point of points) {
          const prefix = freshPrefix()
          const victim = yield* spawnWorker({ url, prefix, faults: [{ ...point, act: { do: "kill" } }] })
          if ((yield* victim.exited) === "SIGKILL") killed[point.at === "migration step" ? "inSteps" : "atRecord"]++
          yield* startWorker({ url, prefix })
          finished.push(...(yield* versions(prefix)))
          const jobsd = yield* Effect.provide(Jobsd.Jobsd, Jobsd.layerClient({ tablePrefix: prefix }))
          yield* reaches(jobsd, yield* jobsd.createRun(Act, { do: "succeed" }), "succeeded")
        }
        const total = killed.inSteps + killed.atRecord
        report({
          row: 63,
          what: "killed between the steps of a migration",
          database,
          count: total,
          result: total === points.length ? "passed" : "failed",
          figure: `after ${killed.inSteps} of ${steps} steps, before and after the record (${killed.atRecord}); the next start completed each`
        })
        assert.strictEqual(total, points.length)
        assert.lengthOf(finished, points.length)
      }),
    limit(60, 120)
  )

  it.scoped("of an old version on newer tables is refused, and writes nothing", () =>
    Effect.gen(function* () {
      const { url } = yield* Target
      const prefix = freshPrefix()
      const sql = yield* SqlClient.SqlClient
      yield* Jobsd.migrate({ tablePrefix: prefix })
      yield* sql.unsafe(`INSERT INTO ${prefix}_migrations (version, applied_at) VALUES (99, 0)`)
      const old = yield* spawnWorker({ url, prefix })
      yield* old.exited
      const said = old.said.flatMap((line) => (line.say === "failed" ? [line.text] : []))
      const instances = yield* sql.unsafe(`SELECT id FROM ${prefix}_instances`)
      report({
        row: 64,
        what: "tables newer than the code",
        database,
        count: 1,
        result: instances.length === 0 && said.some((text) => text.includes("99")) ? "passed" : "failed",
        figure: said[0]?.split("\n")[0] ?? "it said nothing"
      })
      assert.lengthOf(said, 1)
      assert.include(said[0], "The tables have version 99")
      assert.deepStrictEqual(instances, [])
      assert.lengthOf(yield* versions(prefix), 2)
    })
  )
})
