/** What a driver's error means: whether a statement may be repeated, and whether content is to blame. */
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import { mysql } from "../src/internal/storage/dialect/mysql.js"
import { postgres } from "../src/internal/storage/dialect/postgres.js"
import { sqlite } from "../src/internal/storage/dialect/sqlite.js"
import type { Dialect, Failure } from "../src/internal/storage/dialect.js"

const means: ReadonlyArray<readonly [name: string, dialect: Dialect, { readonly [F in Failure]?: ReadonlyArray<string> }]> = [
  [
    "PostgreSQL",
    postgres,
    {
      unique: ["23505"],
      // among them a statement_timeout, 57014, and a lock_timeout, 55P03
      contention: ["40001", "40P01", "55P03", "57014"],
      unavailable: ["57P03", "53100", "53200", "53300", "58030", "25006", "28P01", "3D000", "ECONNREFUSED", "ENOTFOUND"],
      connection: ["57P01", "57P02", "08006", "08003", "ECONNRESET", "EPIPE", "ETIMEDOUT"],
      missingTables: ["42P01", "3F000", "42883"],
      rejected: ["22P02", "22021", "23514", "42703", "54000"]
    }
  ],
  [
    "MySQL",
    mysql,
    {
      unique: ["ER_DUP_ENTRY"],
      contention: ["ER_LOCK_DEADLOCK", "ER_LOCK_WAIT_TIMEOUT", "ER_CHECKREAD", "ER_QUERY_TIMEOUT"],
      unavailable: ["ER_DISK_FULL", "ER_RECORD_FILE_FULL", "ER_LOCK_TABLE_FULL", "ER_CON_COUNT_ERROR", "ECONNREFUSED"],
      connection: ["PROTOCOL_CONNECTION_LOST", "ER_SERVER_SHUTDOWN", "ER_QUERY_INTERRUPTED", "ECONNRESET", "EPIPE"],
      missingTables: ["ER_NO_SUCH_TABLE"],
      rejected: ["ER_DATA_TOO_LONG", "ER_BAD_NULL_ERROR", "ER_NET_PACKET_TOO_LARGE", "ER_CONSTRAINT_FAILED"]
    }
  ],
  [
    "SQLite",
    sqlite,
    {
      unique: ["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"],
      contention: ["SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED", "SQLITE_LOCKED_SHAREDCACHE"],
      unavailable: ["SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_READONLY_DBMOVED", "SQLITE_CANTOPEN_ISDIR"],
      rejected: ["SQLITE_TOOBIG", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER", "SQLITE_ERROR"]
    }
  ]
]

for (const [name, dialect, codes] of means) {
  describe(`an error of ${name}`, () => {
    for (const [meaning, those] of Object.entries(codes)) {
      it(`is ${meaning}: ${those.join(", ")}`, () => {
        for (const code of those) {
          const error = new SqlError({ message: "Failed to execute statement", cause: Object.assign(new Error("so it says"), { code }) })
          assert.strictEqual(dialect.failure(error), meaning, code)
        }
      })
    }
  })
}
