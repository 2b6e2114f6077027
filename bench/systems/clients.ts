/** Effect's SQL clients as their users make them. */
import { SqlClient } from "@effect/sql"
import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Effect, Layer, Redacted } from "effect"
import type { Kind } from "../system.ts"

const synchronousFull = Layer.effectDiscard(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`PRAGMA synchronous = FULL`))

/** `full`: SQLite syncs at every commit */
export const client = (on: Kind, url: string, variant = ""): Layer.Layer<SqlClient.SqlClient> => {
  if (on === "postgres") return Layer.orDie(PgClient.layer({ url: Redacted.make(url), maxConnections: 10 }))
  if (on === "mariadb") {
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
  }
  const sqlite = SqliteClient.layer({ filename: url })
  return Layer.orDie(variant === "full" ? Layer.provideMerge(synchronousFull, sqlite) : sqlite)
}
