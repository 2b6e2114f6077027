import type { SqlError } from "@effect/sql/SqlError"
import { isNumber } from "effect/Predicate"
import type { ColumnType, Dialect, Failure } from "../dialect.js"
import { errorCode, errorMessage } from "../driverError.js"
import { assignments, compile, jsonMembers } from "../statement.js"

const types: { readonly [T in ColumnType]: string } = {
  id: "uuid",
  key: "char(64)",
  name: "text",
  text: "text",
  big: "bigint",
  int: "integer",
  small: "smallint"
}

// stands still within a statement, moves within a transaction, and may be an index condition (clock_timestamp() may not)
const now = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"

const failure = (error: SqlError): Failure => {
  const code = errorCode(error)
  if (code === "23505") return "unique"
  // 57014: a statement_timeout, or an administrator who cancelled it
  if (["40001", "40P01", "55P03", "57014"].includes(code)) return "contention"
  if (["42P01", "3F000", "42883"].includes(code)) return "missingTables"
  if (["57P03", "53300", "25006", "ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "28000", "28P01", "3D000"].includes(code)) {
    return "unavailable"
  }
  // out of disk, memory or other resources, or an error of the system it runs on
  if (/^(53|58)/.test(code)) return "unavailable"
  if (/^(08|57P0)/.test(code) || /^E[A-Z]+$/.test(code)) return "connection"
  if (error.message.startsWith("Failed to acquire")) return "unavailable"
  // pg reports a lost socket without a code
  return code === "" && /terminated|not queryable|closed/i.test(errorMessage(error)) ? "connection" : "rejected"
}

export const postgres: Dialect = {
  placeholders: "numbered",
  now,
  types,
  rows: (parameter, columns) =>
    `json_to_recordset(${parameter}::json) AS d(${Object.entries(columns)
      .map(([column, type]) => `${column} ${types[type]}`)
      .join(", ")})`,
  pairs: {
    from: (value) => `unnest(:ids::uuid[], :values::${types[value]}[]) AS d(id, value)`,
    // in the order of the ids, for `updatePairs` looks values up by bisection
    values: (pairs) => {
      const sorted = [...pairs].sort(([a], [b]) => (a < b ? -1 : 1))
      const values = sorted.map(([_, value]) => value)
      return { ids: `{${sorted.map(([id]) => id).join(",")}}`, values: values.every(isNumber) ? `{${values.join(",")}}` : values }
    }
  },
  joined: (expressions) => `concat(${expressions.join(", ',', ")})`,
  jsonObject: (members) => `json_build_object(${jsonMembers(members)})::text`,
  // the index of what is running looks empty to a planner without statistics, and is then read once for every row
  hidden: (column) => `(${column} + 0)`,
  among: (column, parameter) => `${column} = ANY(string_to_array(${parameter}, ',')::uuid[])`,
  oneOf: (column, name, all) => ({ sql: `${column} = ANY(:${name}::text[])`, values: { [name]: all } }),
  bytes: (text) => `octet_length(${text})`,
  big: (parameter) => `${parameter}::bigint`,
  limit: (rows) => `LIMIT ${rows}`,
  lookUp: (table) => `JOIN ${table} r`,
  returning: true,
  writesInWith: true,
  orKeep: () => "ON CONFLICT DO NOTHING",
  useIndex: () => "",
  skipLocked: "FOR UPDATE SKIP LOCKED",
  forUpdate: "FOR UPDATE",
  // Planning is two thirds of what a claim of a single run takes, and half of an insert. A function's plan is kept by the session that
  // calls it, whoever that is. Made at the first call, for the next ones would plan for their values, on which none of these plans
  // depends; and made for any table, for a planner that sees an empty one reads it from end to end, and would go on doing so. To set
  // what makes it so takes 10 us a call, which the creation of a single run does not need. What returns nothing is a procedure: to call
  // one is not planned, and no row is described, sent and read, which is 20 of 350 us for a creation, and 35 for one that tells of it.
  keep: ({ hopeful, isPlain, name, parameters, returns, source }) => {
    const tried = hopeful === undefined ? source : `BEGIN ${hopeful}; EXCEPTION WHEN unique_violation THEN ${source}; END`
    const body =
      returns === null ? `${tried}; IF :hint IS NOT NULL THEN PERFORM pg_notify(:channel, :hint); END IF` : `RETURN QUERY ${source}`
    // asked for once: for each row anew it takes a tenth of a creation among many, and a twentieth of a claim
    const { names, text } = compile("numbered")(body.replaceAll(now, "moment"))
    const call = `${name}(${names.map((parameter) => `:${parameter}`).join(", ")})`
    const planned = isPlain ? "" : "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off"
    const typeOf = (type: ColumnType | `${ColumnType}[]`) =>
      type.endsWith("[]") ? `${types[type.slice(0, -2) as ColumnType]}[]` : types[type as ColumnType]
    const columns = Object.entries(returns ?? {}).map(([column, type]) => `${column} ${types[type]}`)
    return {
      create: `
        CREATE OR REPLACE ${returns === null ? "PROCEDURE" : "FUNCTION"} ${name}(${names.map((parameter) => typeOf(parameters[parameter]!)).join(", ")})
        ${returns === null ? "" : `RETURNS TABLE (${columns.join(", ")})`}
        LANGUAGE plpgsql ${planned}
        AS $$
        #variable_conflict use_column
        DECLARE moment CONSTANT bigint := ${now};
        BEGIN ${text}; END $$`,
      // what stands in FROM is set up for a scan: a tenth of the creation of a single run
      call:
        returns === null ? `CALL ${call}` : columns.length === 1 ? `SELECT ${call} AS ${Object.keys(returns)[0]}` : `SELECT * FROM ${call}`
    }
  },
  begin: "BEGIN",
  pauses: [5, 25],
  answersAtOnce: false,
  blocking: null,
  beforeWrite: null,
  asksWhereToBegin: false,
  // One index range per priority: a plain ORDER BY over all of them would walk every future row of the more urgent ones
  // (5 ms with 200,000 of them, against 0.3 ms). The lateral subqueries are pulled row by row, so no more is locked than taken.
  // What is locked stays where it is until we commit, so its place (ctid) finds it: a fifth less than by its id.
  claim: ({ runs }, { alive, columns, known, limit, set, state }) => `
    UPDATE ${runs} r
    SET ${set}
    WHERE r.ctid = ANY(ARRAY(
      SELECT due.place
      FROM generate_series(0, 9) AS p(priority)
      CROSS JOIN LATERAL (
        SELECT ctid AS place FROM ${runs}
        WHERE state = ${state} AND queue = :queue AND priority = p.priority AND run_at <= ${now} ${known}
        ORDER BY run_at, id
        ${limit}
        FOR UPDATE SKIP LOCKED
      ) due
      ${limit}
    )) AND ${alive}
    RETURNING ${columns("r.")}`,
  typed: (parameter, type) => `${parameter}::${types[type]}`,
  id: (parameter) => `${parameter}::uuid`,
  currentRead: "",
  skipLockedRuns: "FOR UPDATE OF r SKIP LOCKED",
  updateFrom: ({ on, rows, set, table, where }) =>
    `UPDATE ${table} r SET ${assignments(set)} FROM ${rows} WHERE ${on} AND ${where} RETURNING r.id, r.fence`,
  // Not a join: a planner without statistics takes the guard for so rare that it joins by comparing all with all (45 ms for 500).
  // And an array of unknown length: for one of 500 it reads a table of 20,000 rows from end to end (3 ms) rather than the index.
  updatePairs: ({ set, table, value, where }) => `
    UPDATE ${table} r SET ${assignments(set(`(:values::${types[value]}[])[width_bucket(r.id, :ids::uuid[])]`))}
    WHERE r.id = ANY(ARRAY(SELECT unnest(:ids::uuid[]))) AND ${where}`,
  deleteIn: (table, column, rows) => `DELETE FROM ${table} WHERE ${column} IN (SELECT d.id FROM ${rows})`,
  updateLimited: ({ limit, set, table, where }) => `
    WITH chosen AS MATERIALIZED (SELECT id FROM ${table} WHERE ${where} LIMIT ${limit} FOR UPDATE SKIP LOCKED)
    UPDATE ${table} r SET ${set} FROM chosen WHERE r.id = chosen.id`,
  hint: {
    kind: "channel",
    announce: "SELECT pg_notify(:channel, :hint)",
    within: (insert) => `WITH created AS (${insert}) SELECT pg_notify(:channel, :hint) FROM created`
  },
  failure,
  remembersFailure: null,
  ddl: {
    tableOptions: "",
    inlineIndexes: false,
    // a queue's table dies and is born all day: clean it early
    tuning: ({ runs }) => [
      `ALTER TABLE ${runs} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05)`
    ],
    readable: (column) => `to_timestamp(${column} / 1000.0)`,
    createView: "CREATE OR REPLACE VIEW",
    migrationLock: ({ prefix }) => ({
      lock: `SELECT pg_advisory_xact_lock(hashtext('${prefix}_migrations'))`,
      unlock: null
    }),
    tableExists: (table) => `SELECT COUNT(*) AS found FROM (SELECT to_regclass('${table}') AS oid) t WHERE oid IS NOT NULL`
  }
}
