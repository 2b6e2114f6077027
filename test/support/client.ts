/** Clients by URL, for tests and for the processes they start. */
import type { SqlClient } from "@effect/sql"
import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Layer, Redacted } from "effect"

/** A client for a URL; several clients of one URL are several programs, as far as the database knows. */
export const clientLayer = (url: string, maxConnections = 10): Layer.Layer<SqlClient.SqlClient> =>
  Layer.orDie<SqlClient.SqlClient, unknown, never>(
    url.startsWith("postgres:")
      ? PgClient.layer({ url: Redacted.make(url), maxConnections })
      : url.startsWith("mysql:")
        ? MysqlClient.layer(mysqlConfig(url, maxConnections))
        : SqliteClient.layer({ filename: url })
  )

// with a `url` the driver would ignore the size of its pool
const mysqlConfig = (text: string, maxConnections: number) => {
  const url = new URL(text)
  return {
    host: url.hostname,
    port: Number(url.port || 3306),
    username: decodeURIComponent(url.username),
    password: Redacted.make(decodeURIComponent(url.password)),
    database: url.pathname.slice(1),
    maxConnections
  }
}
