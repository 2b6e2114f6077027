/**
 * A trigger on the runs table that writes down every change in its order, for tests only. The order within a run, and within a key, is
 * the database's: whoever changes a row holds its lock.
 */
import { isDeepStrictEqual } from "node:util"
import { SqlClient } from "@effect/sql"
import { Effect } from "effect"
import type { History, Transition } from "./checker.js"

const columns = {
  run: "id",
  to_state: "state",
  fence: "fence",
  owner: "owner",
  token: "claim_token",
  errors: "errors",
  timeouts: "timeouts",
  crashes: "crashes",
  unique_key: "unique_key",
  origin: "origin_id",
  occurrence: "occurrence",
  schedule: "schedule",
  success_count: "success_count",
  success_limit: "success_limit"
}

const names = Object.keys(columns).join(", ")
const news = Object.values(columns)
  .map((column) => `NEW.${column}`)
  .join(", ")

const table = (prefix: string, seq: string, text: string) => `CREATE TABLE ${prefix}_audit (
  seq ${seq}, run ${text}, from_state INTEGER, to_state INTEGER, fence BIGINT, owner ${text}, token ${text}, errors INTEGER,
  timeouts INTEGER, crashes INTEGER, unique_key ${text}, origin ${text}, occurrence INTEGER, schedule ${text}, success_count INTEGER,
  success_limit INTEGER, at BIGINT)`

const insert = (prefix: string, from: string, now: string) =>
  `INSERT INTO ${prefix}_audit (from_state, ${names}, at) VALUES (${from}, ${news}, ${now})`

const onBoth = (trigger: (name: string, event: "INSERT" | "UPDATE", from: string) => string) => [
  trigger("audit_insert", "INSERT", "NULL"),
  trigger("audit_update", "UPDATE", "OLD.state")
]

const statements = (prefix: string) => ({
  sqlite: () => [
    table(prefix, "INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT"),
    ...onBoth(
      (name, event, from) =>
        `CREATE TRIGGER ${prefix}_${name} AFTER ${event} ON ${prefix}_runs BEGIN ${insert(prefix, from, "CAST(unixepoch('subsec') * 1000 AS INTEGER)")}; END`
    )
  ],
  pg: () => [
    table(prefix, "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "TEXT"),
    `CREATE FUNCTION ${prefix}_audit() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        ${insert(prefix, "CASE TG_OP WHEN 'UPDATE' THEN OLD.state END", "floor(extract(epoch FROM clock_timestamp()) * 1000)")};
        RETURN NULL;
      END $$`,
    `CREATE TRIGGER ${prefix}_audit AFTER INSERT OR UPDATE ON ${prefix}_runs FOR EACH ROW EXECUTE FUNCTION ${prefix}_audit()`
  ],
  mysql: () => [
    `${table(prefix, "BIGINT AUTO_INCREMENT PRIMARY KEY", "VARCHAR(128)")} ENGINE = InnoDB CHARACTER SET utf8mb4`,
    ...onBoth(
      (name, event, from) =>
        `CREATE TRIGGER ${prefix}_${name} AFTER ${event} ON ${prefix}_runs FOR EACH ROW ${insert(prefix, from, "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000")}`
    )
  ],
  orElse: (): ReadonlyArray<string> => []
})

/** Writes down what happens to the runs of these tables, from now on. The tables must be there. */
export const install = (prefix: string): Effect.Effect<void, never, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    // MySQL prepares no CREATE TRIGGER
    Effect.forEach(sql.onDialectOrElse(statements(prefix)), (text) => sql.unsafe(text).unprepared, { discard: true })
  ).pipe(Effect.orDie)

const number = (value: unknown) => Number(value)
const numberOrNull = (value: unknown) => (value === null ? null : Number(value))
const string = (value: unknown) => String(value).trim()
const stringOrNull = (value: unknown) => (value === null ? null : string(value))

/** When an instance claimed a run, or gave it back, on the database's clock. */
export interface Change extends Transition {
  readonly at: number
}

export const changes = (prefix: string): Effect.Effect<ReadonlyArray<Change>, never, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe<Record<string, unknown>>(`SELECT * FROM ${prefix}_audit ORDER BY seq`)).pipe(
    Effect.orDie,
    Effect.map((rows) =>
      rows.map((row) => ({
        seq: number(row.seq),
        run: string(row.run),
        from: numberOrNull(row.from_state),
        to: number(row.to_state),
        fence: number(row.fence),
        owner: stringOrNull(row.owner),
        token: stringOrNull(row.token),
        errors: number(row.errors),
        timeouts: number(row.timeouts),
        crashes: number(row.crashes),
        key: stringOrNull(row.unique_key),
        origin: string(row.origin),
        occurrence: number(row.occurrence),
        schedule: stringOrNull(row.schedule),
        successCount: number(row.success_count),
        successLimit: numberOrNull(row.success_limit),
        at: number(row.at)
      }))
    )
  )

/** What the database tells the checker. A chain may still go on: looks until nothing has changed between the first read and the last. */
export const load = (prefix: string): Effect.Effect<Pick<History, "transitions" | "rows">, never, SqlClient.SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const read = sql.unsafe<{ readonly id: string; readonly state: number; readonly fence: number }>(
      `SELECT id, state, fence FROM ${prefix}_runs ORDER BY id`
    )
    for (;;) {
      const rows = yield* read
      const transitions = yield* changes(prefix)
      if (isDeepStrictEqual(rows, yield* read)) {
        return { transitions, rows: rows.map(({ id, state }) => ({ id: String(id), state: Number(state) })) }
      }
    }
  }).pipe(Effect.orDie)
