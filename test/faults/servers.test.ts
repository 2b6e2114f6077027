/** Database servers that crash, turn read-only, or have defaults of their own: the tests on servers that belong to one test alone. */
import { isDeepStrictEqual } from "node:util"
import type { SqlClient } from "@effect/sql"
import type { Vitest } from "@effect/vitest"
import { assert, describe, layer } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { clientLayer } from "../support/client.js"
import { Target } from "../support/databases.js"
import { choicesFor, limit, report, scaled, secondsWatched } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { missingOwnServer, type OwnServer, startOwnServer, tell } from "./support/dbServers.js"
import { createMeanwhile, untiring, watchedLoad } from "./support/load.js"
import { Act, Often } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

class Server extends Context.Tag("test/OwnServer")<Server, OwnServer>() {}

/** one whom read_only binds: it does not bind those who may change it */
const plainUser = (url: string) =>
  Effect.gen(function* () {
    yield* tell(url, "CREATE USER plain@'127.0.0.1' IDENTIFIED BY 'plain'")
    yield* tell(
      url,
      "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, TRIGGER, CREATE VIEW, LOCK TABLES ON test.* TO plain@'127.0.0.1'"
    )
    const plain = new URL(url)
    plain.username = "plain"
    plain.password = "plain"
    return plain.toString()
  })

const ownServer = (name: "postgres" | "mysql") =>
  Layer.unwrapScoped(
    Effect.gen(function* () {
      const server = yield* startOwnServer(name)
      const url = name === "mysql" ? yield* plainUser(server.url) : server.url
      return Layer.mergeAll(clientLayer(url), Layer.succeed(Target, { name, url }), Layer.succeed(Server, server))
    })
  )

/** How a server is asked for the isolation that a new transaction has, and how many had to be done again; each answers with a value. */
const questions = {
  postgres: {
    level: "SELECT current_setting('transaction_isolation') AS value",
    conflict: "transactions rolled back",
    conflicts: "SELECT xact_rollback AS value FROM pg_stat_database WHERE datname = current_database()"
  },
  mysql: {
    // MariaDB has had two names for it
    level: `SELECT VARIABLE_VALUE AS value FROM information_schema.SESSION_VARIABLES
            WHERE VARIABLE_NAME IN ('TX_ISOLATION', 'TRANSACTION_ISOLATION') LIMIT 1`,
    conflict: "deadlocks",
    conflicts: "SELECT VARIABLE_VALUE AS value FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'INNODB_DEADLOCKS'"
  }
} as const

for (const database of ["postgres", "mysql"] as const) {
  const missing = await missingOwnServer(database)
  describe.skipIf(missing !== "")(`a server of one's own: ${missing === "" ? database : `${database} (${missing})`}`, () => {
    layer(ownServer(database), { timeout: "60 seconds", excludeTestServices: true })((methods) => {
      const it = methods as Vitest.MethodsNonLive<SqlClient.SqlClient | Target | Server, true>

      it.scoped(
        "that crashes and comes back loses nothing that was accepted, and soon as much is done as before",
        () =>
          Effect.gen(function* () {
            const crashes = scaled(2, 20)
            const choose = choicesFor(`crashes of ${database}`)
            const server = yield* Server
            const world = yield* makeAuditedWorld
            const { afterwards, load } = yield* watchedLoad(world, scaled(800, 18_000), () => ({
              do: "succeed",
              millis: choose.between(0, 200)
            }))
            const from = Date.now()
            for (let crash = 0; crash < crashes; crash++) {
              yield* Effect.sleep(scaled(1500, 7000))
              yield* server.kill
              yield* Effect.sleep(choose.between(0, scaled(1500, 5000)))
              yield* server.start
            }
            const until = Date.now()
            yield* Effect.sleep(secondsWatched.after * 1000)
            yield* load.stop
            const { check, figure, result } = yield* afterwards({ from, until })
            report({ row: 20, what: "server killed and restarted", database, count: crashes, result, figure })
            assert.isAbove(load.failures.length, 0)
            check()
          }),
        limit(60, 600)
      )

      it.scoped(
        "that is read-only for a while crashes nobody, and work goes on when it ends",
        () =>
          Effect.gen(function* () {
            const millis = scaled(3000, 30_000)
            const server = yield* Server
            const readOnly = (on: boolean) =>
              database === "mysql"
                ? tell(server.url, `SET GLOBAL read_only = ${on ? 1 : 0}`)
                : Effect.zipRight(
                    tell(
                      server.url,
                      on ? "ALTER SYSTEM SET default_transaction_read_only = on" : "ALTER SYSTEM RESET default_transaction_read_only"
                    ),
                    tell(server.url, "SELECT pg_reload_conf()")
                  )
            const world = yield* makeAuditedWorld
            const jobsd = yield* world.client()
            yield* Effect.replicateEffect(world.worker(), 2, { concurrency: 2 })
            const load = yield* createMeanwhile(jobsd, () => ({ do: "succeed", millis: 50 }))
            yield* Effect.sleep("500 millis")
            yield* readOnly(true)
            yield* Effect.sleep(millis)
            const refused = load.failures.length
            yield* readOnly(false)
            yield* Effect.sleep("1 second")
            yield* load.stop
            yield* allEnded(world)
            const verdict = yield* world.verdict(load.accepted)
            report({
              row: 26,
              what: `read-only for ${millis} ms`,
              database,
              count: refused,
              result: load.defects.length === 0 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
              figure: `${load.accepted.length} accepted, ${refused} refused with typed errors, lost ${verdict.lost.length}`
            })
            assert.isAbove(refused, 0)
            assert.deepStrictEqual(load.defects, [])
            assert.isFalse(world.workers.some((worker) => worker.hasExited()))
            assert.deepStrictEqual(defects(verdict), noDefects)
          }),
        limit(60, 120)
      )

      for (const isolation of ["REPEATABLE READ", "SERIALIZABLE"] as const) {
        it.scoped(
          `whose default isolation is ${isolation} loses nothing, and shows no conflict to anybody`,
          () =>
            Effect.gen(function* () {
              const count = scaled(60, 1000)
              const server = yield* Server
              const question = questions[database]
              const set = (level: string) =>
                database === "mysql"
                  ? tell(server.url, `SET GLOBAL TRANSACTION ISOLATION LEVEL ${level}`)
                  : tell(server.url, `ALTER DATABASE postgres SET default_transaction_isolation = '${level.toLowerCase()}'`)
              yield* Effect.acquireRelease(set(isolation), () => set(database === "mysql" ? "REPEATABLE READ" : "READ COMMITTED"))
              const conflictsUntilNow = Effect.map(tell(server.url, question.conflicts), ([row]) => Number(row?.value))
              const before = yield* conflictsUntilNow
              const work = Effect.gen(function* () {
                // connections made before the change have the old default
                const context = yield* Layer.build(clientLayer(server.url, 8))
                const own = yield* Effect.provide(makeAuditedWorld, context)
                // what a transaction has that was told nothing: on the library's connections here, and on new ones as its processes make them
                const rows = [...(yield* own.unsafe(question.level)), ...(yield* tell(server.url, question.level))]
                assert.deepStrictEqual(
                  rows.map(({ value }) => String(value).replace("-", " ").toUpperCase()),
                  [isolation, isolation]
                )
                const jobsd = yield* own.client()
                const workers = yield* Effect.replicateEffect(own.worker({ url: server.url }), 3, { concurrency: 3 })
                const create = (i: number) =>
                  i % 10 === 0
                    ? jobsd.createRun(Act, { do: "succeed" }, { ...untiring, schedule: Often, limit: 2, unique: `chain ${i % 30}` })
                    : jobsd.createRun(
                        Act,
                        i % 5 === 0 ? { do: "fail", times: 1 } : { do: "succeed", millis: 5 },
                        i % 3 === 0 ? { ...untiring, unique: `key ${i % 12}` } : untiring
                      )
                const ids = yield* Effect.orDie(
                  Effect.forEach(
                    Array.from({ length: count }, (_, i) => i),
                    create,
                    { concurrency: 8 }
                  )
                )
                yield* allEnded(own)
                // a connection tells its server at the latest when it ends what it has counted
                for (const worker of workers) worker.kill("SIGTERM")
                yield* Effect.forEach(workers, (worker) => worker.exited)
                return yield* own.verdict([...new Set(ids)])
              })
              const verdict = yield* Effect.scoped(work)
              const conflicts = (yield* conflictsUntilNow) - before
              report({
                row: 32,
                what: `default isolation ${isolation}`,
                database,
                count,
                result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
                figure: `${verdict.seen.runs} runs, lost ${verdict.lost.length}, ${conflicts} ${question.conflict} and nobody heard of it`
              })
              assert.deepStrictEqual(defects(verdict), noDefects)
            }),
          limit(40, 120)
        )
      }
    })
  })
}
