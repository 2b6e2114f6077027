/** The harness's own view of a database: it makes one for each cell, looks at it from outside, and drops it. */
import { rmSync } from "node:fs"
import { join } from "node:path"
import Sqlite from "better-sqlite3"
import mysql from "mysql2/promise"
import pg from "pg"
import { type Running, startMariadb, startPostgres, startSqlite } from "./servers.ts"
import type { Kind } from "./system.ts"

/** Counters of a database since the server started; null where the server has none. */
export interface Counters {
  readonly transactions: number | null
  readonly statements: number | null
}

export interface Database {
  readonly url: string
  readonly run: (sql: string) => Promise<ReadonlyArray<{ readonly [column: string]: unknown }>>
  /** closes the connection that `run` uses, so that the server has counted all of it */
  readonly disconnect: () => Promise<void>
  readonly drop: () => Promise<void>
}

export interface Server {
  readonly kind: Kind
  readonly version: string
  readonly create: (name: string) => Promise<Database>
  readonly counters: (database: Database) => Promise<Counters>
  /** bytes of log written so far, by all databases; null where there is no such figure */
  readonly logBytes: () => Promise<number | null>
  readonly stop: () => Promise<void>
}

const opening = <C>(open: () => Promise<C>, close: (connection: C) => Promise<void>) => {
  let connection: Promise<C> | undefined
  return {
    use: () => {
      connection ??= open()
      return connection
    },
    disconnect: async () => {
      const open = connection
      connection = undefined
      if (open !== undefined) await close(await open)
    }
  }
}

const postgres = async ({ stop, url }: Running): Promise<Server> => {
  // one connection, which whoever asks waits for
  const admin = new pg.Pool({ connectionString: `${url}/postgres`, max: 1, idleTimeoutMillis: 0 })
  admin.on("error", () => {})
  const one = async (sql: string, values: Array<unknown> = []) => (await admin.query(sql, values)).rows[0]
  const countsStatements = await one("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    .then(() => one("SELECT count(*) FROM pg_stat_statements"))
    .then(() => true)
    .catch(() => false)
  return {
    kind: "postgres",
    version: `PostgreSQL ${(await one("SHOW server_version")).server_version}`,
    create: async (name) => {
      await admin.query(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`)
      await admin.query(`CREATE DATABASE "${name}"`)
      const connection = opening(
        async () => {
          const client = new pg.Client(`${url}/${name}`)
          client.on("error", () => {})
          await client.connect()
          return client
        },
        (client) => client.end()
      )
      return {
        url: `${url}/${name}`,
        run: async (sql) => (await (await connection.use()).query(sql)).rows ?? [],
        disconnect: connection.disconnect,
        drop: async () => {
          await connection.disconnect()
          await admin.query(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`)
        }
      }
    },
    counters: async (database) => {
      const name = database.url.slice(database.url.lastIndexOf("/") + 1)
      const { transactions } = await one("SELECT xact_commit + xact_rollback AS transactions FROM pg_stat_database WHERE datname = $1", [
        name
      ])
      const statements = countsStatements
        ? (
            await one(
              "SELECT coalesce(sum(calls), 0) AS calls FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1)",
              [name]
            )
          ).calls
        : null
      return { transactions: Number(transactions), statements: statements === null ? null : Number(statements) }
    },
    logBytes: async () => Number((await one("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS bytes")).bytes),
    stop: async () => {
      await admin.end().catch(() => {})
      await stop()
    }
  }
}

const mariadb = async ({ stop, url }: Running): Promise<Server> => {
  const admin = await mysql.createConnection(url)
  let asked = 0
  const status = async (name: string) => {
    asked++
    const [rows] = await admin.query<Array<mysql.RowDataPacket>>(`SHOW GLOBAL STATUS LIKE '${name}'`)
    return Number(rows[0]?.Value)
  }
  const [version] = await admin.query<Array<mysql.RowDataPacket>>("SELECT VERSION() AS version")
  return {
    kind: "mariadb",
    version: `MariaDB ${version[0]!.version}`,
    create: async (name) => {
      await admin.query(`DROP DATABASE IF EXISTS \`${name}\``)
      await admin.query(`CREATE DATABASE \`${name}\` CHARACTER SET utf8mb4`)
      const connection = opening(
        () => mysql.createConnection(`${url}/${name}`),
        (client) => client.end()
      )
      return {
        url: `${url}/${name}`,
        run: async (sql) => {
          const [rows] = await (await connection.use()).query(sql)
          return Array.isArray(rows) ? (rows as ReadonlyArray<{ readonly [column: string]: unknown }>) : []
        },
        disconnect: connection.disconnect,
        drop: async () => {
          await connection.disconnect()
          // a statement outlives the process that asked for it, and the drop would wait for it
          const [busy] = await admin.query<Array<mysql.RowDataPacket>>("SELECT id FROM information_schema.processlist WHERE db = ?", [name])
          for (const { id } of busy) await admin.query(`KILL ${id}`).catch(() => {})
          await admin.query(`DROP DATABASE IF EXISTS \`${name}\``)
        }
      }
    },
    // of the whole server, so one system at a time, and without what is asked here
    counters: async () => ({ transactions: null, statements: (await status("Questions")) - asked }),
    logBytes: () => status("Innodb_os_log_written"),
    stop: async () => {
      await admin.end().catch(() => {})
      await stop()
    }
  }
}

const sqlite = async ({ stop, url }: Running): Promise<Server> => ({
  kind: "sqlite",
  version: `SQLite ${new Sqlite(":memory:").prepare<[], { version: string }>("SELECT sqlite_version() AS version").get()!.version}`,
  create: async (name) => {
    const file = join(url, `${name}.db`)
    const remove = () => {
      for (const suffix of ["", "-wal", "-shm"]) rmSync(file + suffix, { force: true })
    }
    remove()
    const connection = opening(
      async () => new Sqlite(file, { timeout: 5000 }),
      async (client) => void client.close()
    )
    return {
      url: file,
      run: async (sql) => {
        const statement = (await connection.use()).prepare(sql)
        if (statement.reader) return statement.all() as ReadonlyArray<{ readonly [column: string]: unknown }>
        statement.run()
        return []
      },
      disconnect: connection.disconnect,
      drop: async () => {
        await connection.disconnect()
        remove()
      }
    }
  },
  counters: async () => ({ transactions: null, statements: null }),
  logBytes: async () => null,
  stop
})

const starting: { readonly [kind in Kind]: () => Promise<Server | string> } = {
  postgres: async () => {
    const running = await startPostgres()
    return typeof running === "string" ? running : postgres(running)
  },
  mariadb: async () => {
    const running = await startMariadb()
    return typeof running === "string" ? running : mariadb(running)
  },
  sqlite: async () => sqlite(await startSqlite())
}

/** Starts the server of a kind; a text says why there is none. */
export const startServer = (kind: Kind): Promise<Server | string> => starting[kind]()
