/** Effect's SQL clients as their users make them. Only the driver that is used is loaded. */
import { SqlClient } from "@effect/sql"
import { Effect, Layer, Redacted } from "effect"
import type { Kind } from "../system.ts"

const synchronousFull = Layer.effectDiscard(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`PRAGMA synchronous = FULL`))

/** `full`: SQLite syncs at every commit */
export const client = (on: Kind, url: string, variant = ""): Layer.Layer<SqlClient.SqlClient> =>
  Layer.unwrapEffect(Effect.promise(() => clients[on](url, variant)))

const clients: { readonly [on in Kind]: (url: string, variant: string) => Promise<Layer.Layer<SqlClient.SqlClient>> } = {
  postgres: async (url) => {
    const { PgClient } = await import("@effect/sql-pg")
    return Layer.orDie(PgClient.layer({ url: Redacted.make(url), maxConnections: 10 }))
  },
  mariadb: async (url) => {
    const { MysqlClient } = await import("@effect/sql-mysql2")
    // with a `url` the driver would ignore the size of its pool
    const { hostname, password, pathname, port, username } = new URL(url)
    return Layer.orDie(
      MysqlClient.layer({
        host: hostname,
        port: Number(port),
        username,
        password: Redacted.make(password),
        database: pathname.slice(1),
        maxConnections: 10
      })
    )
  },
  sqlite: async (url, variant) => {
    const { SqliteClient } = await import("@effect/sql-sqlite-node")
    const sqlite = SqliteClient.layer({ filename: url })
    return Layer.orDie(variant === "full" ? Layer.provideMerge(synchronousFull, sqlite) : sqlite)
  }
}
