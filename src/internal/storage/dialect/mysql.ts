/** MySQL 8 and MariaDB from 10.6: both have SKIP LOCKED and JSON_TABLE; neither has UPDATE ... RETURNING. */
import type { SqlError } from "@effect/sql/SqlError"
import { priorities } from "../../lifecycle.js"
import type { ColumnType, Dialect, Failure } from "../dialect.js"
import { errorCode, errorMessage } from "../driverError.js"
import { assignments, inList, jsonMembers } from "../statement.js"

const ascii = "CHARACTER SET ascii COLLATE ascii_bin"
const unicode = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

const types: { readonly [T in ColumnType]: string } = {
  id: `CHAR(36) ${ascii}`,
  key: `CHAR(64) ${ascii}`,
  name: `VARCHAR(128) ${unicode}`,
  text: `LONGTEXT ${unicode}`,
  big: "BIGINT",
  int: "INT",
  small: "SMALLINT"
}

// not UNIX_TIMESTAMP(NOW(3)): that is an hour wrong in the hour that a change from summer time repeats
const now = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)"

const failure = (error: SqlError): Failure => {
  const code = errorCode(error)
  if (code === "ER_DUP_ENTRY") return "unique"
  // 1020 is MariaDB's "record has changed since last read" under snapshot isolation
  if (["ER_LOCK_DEADLOCK", "ER_LOCK_WAIT_TIMEOUT", "ER_CHECKREAD", "ER_NEED_REPREPARE", "ER_QUERY_TIMEOUT"].includes(code))
    return "contention"
  if (code === "ER_NO_SUCH_TABLE") return "missingTables"
  if (
    [
      "ECONNREFUSED",
      "ENOTFOUND",
      "EAI_AGAIN",
      "ER_CON_COUNT_ERROR",
      "ER_OPTION_PREVENTS_STATEMENT",
      "ER_ACCESS_DENIED_ERROR",
      "ER_BAD_DB_ERROR",
      "ER_DISK_FULL",
      "ER_RECORD_FILE_FULL",
      "ER_LOCK_TABLE_FULL",
      "ER_OUTOFMEMORY",
      "ER_OUT_OF_SORTMEMORY",
      "ER_OUT_OF_RESOURCES"
    ].includes(code)
  ) {
    return "unavailable"
  }
  if (/^(PROTOCOL_|ER_SERVER_SHUTDOWN|ER_CONNECTION_KILLED|ER_QUERY_INTERRUPTED)/.test(code) || /^E(?!R_)[A-Z]+$/.test(code))
    return "connection"
  if (error.message.startsWith("Failed to acquire")) return "unavailable"
  return code === "" && /closed state|connection.*(lost|closed)/i.test(errorMessage(error)) ? "connection" : "rejected"
}

const pairsFrom = (value: ColumnType) =>
  `JSON_TABLE(:pairs, '$[*]' COLUMNS (id ${types.id} PATH '$[0]', value ${types[value]} PATH '$[1]')) AS d`

// In this order and by this index: the optimizer reads a table of a few rows (five, say) from end to end instead, and then waits for every
// row that somebody holds, be it a process that is frozen within a transaction.
const lookUp: Dialect["lookUp"] = (table, index) =>
  `STRAIGHT_JOIN ${table} r FORCE INDEX (${index === "primary" ? "PRIMARY" : `${table}_unique`})`

export const mysql: Dialect = {
  placeholders: "positional",
  now,
  types,
  rows: (parameter, columns) =>
    `JSON_TABLE(${parameter}, '$[*]' COLUMNS (${Object.entries(columns)
      .map(([column, type]) => `${column} ${types[type]} PATH '$.${column}'`)
      .join(", ")})) AS d`,
  pairs: {
    from: pairsFrom,
    values: (pairs) => ({ pairs: JSON.stringify(pairs) })
  },
  joined: (expressions) => `CONCAT_WS(',', ${expressions.map((one) => `COALESCE(${one}, '')`).join(", ")})`,
  // as text: the driver would parse a JSON column itself, in some versions
  jsonObject: (members) => `CAST(JSON_OBJECT(${jsonMembers(members)}) AS CHAR)`,
  hidden: (column) => column,
  among: (column, parameter) => `FIND_IN_SET(${column}, ${parameter}) > 0`,
  oneOf: inList,
  bytes: (text) => `LENGTH(${text})`,
  big: (parameter) => `CAST(${parameter} AS SIGNED)`,
  limit: (rows) => `LIMIT ${rows}`,
  lookUp,
  returning: false,
  writesInWith: false,
  orKeep: (table, column) => `ON DUPLICATE KEY UPDATE ${column} = ${table}.${column}`,
  useIndex: ({ runs }, index) => `FORCE INDEX (${runs}_${index})`,
  skipLocked: "FOR UPDATE SKIP LOCKED",
  forUpdate: "FOR UPDATE",
  keep: null,
  begin: "BEGIN",
  pauses: [5, 25],
  answersAtOnce: false,
  blocking: null,
  // under REPEATABLE READ a claim locks the gaps that inserts need (500 ms of waiting against 2 ms), and deadlocks
  beforeWrite: "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
  // InnoDB leaves what was claimed in the index until it is purged. A look into the range of a priority without runs goes on through all of
  // that to the next run there is, locking as it goes: in a queue of one priority, six times instead of once.
  asksWhereToBegin: true,
  // the range optimizer reads one index range per priority, in order and without a sort: of numbers in the text, for it sorts by a parameter
  claim: ({ runs }, { alive, from, known, limit, set, state }) => `
    UPDATE (
      SELECT id FROM ${runs} FORCE INDEX (${runs}_claim)
      WHERE state = ${state} AND queue = :queue AND priority IN (${priorities.slice(from).join(", ")}) AND run_at <= ${now} ${known}
      ORDER BY priority, run_at, id
      ${limit}
      FOR UPDATE SKIP LOCKED
    ) due ${lookUp(runs, "primary")} ON r.id = due.id
    SET ${set}
    WHERE ${alive}`,
  typed: (parameter, type) => (type === "big" ? `CAST(${parameter} AS SIGNED)` : parameter),
  id: (parameter) => parameter,
  // a REPEATABLE READ snapshot would not see the row that our insert has just run into
  currentRead: "LOCK IN SHARE MODE",
  skipLockedRuns: "FOR UPDATE SKIP LOCKED",
  updateFrom: ({ on, rows, set, table, where }) =>
    `UPDATE ${rows} ${lookUp(table, "primary")} ON ${on} SET ${assignments(set, "r.")} WHERE ${where}`,
  updatePairs: ({ set, table, value, where }) =>
    `UPDATE ${pairsFrom(value)} ${lookUp(table, "primary")} ON r.id = d.id SET ${assignments(set("d.value"), "r.")} WHERE ${where}`,
  // not IN: a subquery is asked for each row of the whole table (12 minutes for 1,000 of a million)
  deleteIn: (table, column, rows) => `DELETE r FROM ${rows} ${lookUp(table, "primary")} ON r.${column} = d.id`,
  updateLimited: ({ limit, set, table, where }) => `UPDATE ${table} SET ${set} WHERE ${where} LIMIT ${limit}`,
  // half of this is how long a run of another process waits for an idle instance; each look costs one statement
  hint: { kind: "none", look: { millis: 190, quietMillis: 1000 } },
  failure,
  remembersFailure: null,
  ddl: {
    tableOptions: "ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    inlineIndexes: true,
    tuning: () => [],
    readable: (column) => `TIMESTAMPADD(MICROSECOND, ${column} * 1000, '1970-01-01 00:00:00.000')`,
    createView: "CREATE OR REPLACE VIEW",
    // DDL commits implicitly here, so the lock is the connection's, not the transaction's
    migrationLock: ({ prefix }) => ({
      lock: `SELECT GET_LOCK(CONCAT(DATABASE(), '.${prefix}_migrations'), 5) AS got`,
      unlock: `SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.${prefix}_migrations'))`
    }),
    tableExists: (table) =>
      `SELECT COUNT(*) AS found FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '${table}'`
  }
}
