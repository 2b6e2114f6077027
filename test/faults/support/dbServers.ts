/** Database servers of a test's own, which it may kill: what was committed survives. SQLite has none. */
import { SqlClient } from "@effect/sql"
import { Effect, type Scope } from "effect"
import { inject } from "vitest"
import { ensureMariadb, findPostgres } from "../../support/binaries.js"
import { clientLayer } from "../../support/client.js"
import { type Cluster, prepareMariadb, preparePostgres, type Serving } from "../../support/clusters.js"

export interface OwnServer {
  readonly url: string
  /** ends it as a crash would, and waits until it is gone */
  readonly kill: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

type Name = "postgres" | "mysql"

const variables = { postgres: "JOBSD_TEST_PG_URL", mysql: "JOBSD_TEST_MYSQL_URL" } as const

/** The programs of a server, or why there are none that a test could start and kill. */
const find = async (database: Name) => {
  if (database === "postgres") return findPostgres()
  // a server that is given is reason enough to install none
  if (process.env[variables.mysql]) return `mysql: ${variables.mysql} names a server that is not this test's to kill`
  const found = ensureMariadb()
  return found === "docker" ? "mysql: the other tests use a container, which this test cannot kill and start again" : found
}

/**
 * Why there can be no server of a test's own, for the name of what is skipped; empty: there can. As for every database that is missing,
 * `CI` makes it a failure, unless the environment asks for it: by naming a server, or by forbidding to install one.
 */
export const missingOwnServer = async (database: Name): Promise<string> => {
  const { missing } = inject(database)
  if (missing !== "") return missing
  const found = await find(database)
  if (typeof found !== "string") return ""
  const reason = `${found}; it needs a server of its own`
  const isAskedFor = Boolean(process.env[variables[database]]) || process.env.JOBSD_TEST_INSTALL === "0"
  if (process.env.CI && !isAskedFor) throw new Error(`CI tests every database, but:\n${reason}`)
  console.warn(`SKIPPED ${reason}`)
  return reason
}

const prepare = async (database: Name): Promise<Cluster> => {
  const found = await find(database)
  if (typeof found === "string") throw new Error(`no server of its own for this test: ${found}`)
  return "directory" in found ? preparePostgres(found, true) : prepareMariadb(found, true)
}

export const startOwnServer = (database: Name): Effect.Effect<OwnServer, never, Scope.Scope> =>
  Effect.gen(function* () {
    const cluster = yield* Effect.promise(() => prepare(database))
    let serving: Serving | null = null
    const start = Effect.promise(async () => {
      serving = await cluster.start("keep")
    })
    yield* Effect.addFinalizer(() => Effect.sync(cluster.remove))
    yield* Effect.acquireRelease(start, () => Effect.promise(async () => serving?.stop()))
    return {
      url: cluster.url,
      start,
      kill: Effect.promise(async () => {
        await serving?.kill()
        serving = null
      })
    }
  })

/** Any statement, on a connection of its own. */
export const tell = (url: string, text: string): Effect.Effect<ReadonlyArray<Record<string, unknown>>> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe<Record<string, unknown>>(text).unprepared).pipe(
    Effect.provide(clientLayer(url, 1)),
    Effect.orDie
  )
