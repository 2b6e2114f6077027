/** Database servers of a test's own, which it may kill: what was committed survives. SQLite has none. */
import { SqlClient } from "@effect/sql"
import { Effect, type Scope } from "effect"
import { ensureMariadb, findPostgres } from "../../support/binaries.js"
import { clientLayer } from "../../support/client.js"
import { type Cluster, prepareMariadb, preparePostgres, type Serving } from "../../support/clusters.js"

export interface OwnServer {
  readonly url: string
  /** ends it as a crash would, and waits until it is gone */
  readonly kill: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

const prepare = async (database: "postgres" | "mysql"): Promise<Cluster> => {
  const found = database === "postgres" ? await findPostgres() : ensureMariadb()
  if (typeof found === "string") throw new Error(`no server of its own for this test: ${found}`)
  return "directory" in found ? preparePostgres(found, true) : prepareMariadb(found, true)
}

export const startOwnServer = (database: "postgres" | "mysql"): Effect.Effect<OwnServer, never, Scope.Scope> =>
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
