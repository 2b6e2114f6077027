/** The statements that create runs: their texts, the values that go with them, and what a server that keeps statements is to keep. */
import { State } from "../../lifecycle.js"
import type { Database } from "../database.js"
import type { ColumnType } from "../dialect.js"
import type { Kept, Value } from "../statement.js"
import type { NewRun } from "./create.js"

export const insertedColumns = {
  id: "id",
  job: "name",
  queue: "name",
  schedule: "name",
  name: "text",
  unique_key: "key",
  priority: "small",
  due: "big",
  delay: "big",
  created_by: "id",
  max_errors: "int",
  max_timeouts: "int",
  max_crashes: "int",
  timeout_ms: "big",
  success_limit: "int",
  backoff: "text",
  payload: "text",
  payload_bytes: "int",
  traceparent: "text"
} satisfies { [column: string]: ColumnType }

type InsertedColumn = keyof typeof insertedColumns

export const insertedValues = (run: NewRun): { readonly [C in InsertedColumn]: Value } => ({
  id: run.id,
  job: run.job,
  queue: run.queue,
  schedule: run.schedule,
  name: run.name,
  unique_key: run.uniqueKey,
  priority: run.priority,
  due: run.runAt,
  delay: run.delayMillis,
  created_by: run.createdBy,
  max_errors: run.maxErrors,
  max_timeouts: run.maxTimeouts,
  max_crashes: run.maxCrashes,
  timeout_ms: run.timeoutMillis,
  success_limit: run.successLimit,
  backoff: run.backoff,
  payload: run.payload,
  payload_bytes: run.payloadBytes,
  traceparent: run.traceparent
})

/** Nulls are left out: they are half of the text, and what is left out is NULL. */
export const withoutNulls = (values: { readonly [column: string]: Value }) =>
  Object.fromEntries(Object.entries(values).filter(([_, value]) => value !== null))

/** an INSERT of all columns, given how each of those that differ is said */
export const inserting = ({ dialect: { now, returning }, tables: { runs } }: Pick<Database, "dialect" | "tables">) => {
  const into = `
    INSERT INTO ${runs} (id, origin_id, occurrence, job, queue, schedule, name, unique_key, state, priority, run_at, created_at,
      created_by, fence, errors, timeouts, crashes, max_errors, max_timeouts, max_crashes, timeout_ms, success_count,
      success_limit, backoff, payload, payload_bytes, late, traceparent)`
  const columnsOf = (of: (column: InsertedColumn) => string) => `
    ${of("id")}, ${of("id")}, 0, ${of("job")}, ${of("queue")}, ${of("schedule")}, ${of("name")}, ${of("unique_key")}, ${State.ready},
    ${of("priority")}, COALESCE(${of("due")}, ${now}) + ${of("delay")}, ${now}, ${of("created_by")}, 0, 0, 0, 0, ${of("max_errors")},
    ${of("max_timeouts")}, ${of("max_crashes")}, ${of("timeout_ms")}, 0, ${of("success_limit")}, ${of("backoff")}, ${of("payload")},
    ${of("payload_bytes")}, 0, ${of("traceparent")}`
  return { columnsOf, into, orNothing: returning ? "ON CONFLICT DO NOTHING" : "" }
}

/**
 * What a server that keeps statements is to keep: the creation of a single run, without and with a key that another may hold, and of some
 * without one that differ in nothing but their payloads. Without a key there is nothing to answer: who is there already is what an earlier
 * try has created.
 */
export const insertsKept = (database: Pick<Database, "dialect" | "tables">): { readonly [kept in "one" | "unique" | "alike"]: Kept } => {
  const { dialect, tables } = database
  const { columnsOf, into, orNothing } = inserting(database)
  const typed = (column: InsertedColumn) => dialect.typed(`:${column}`, insertedColumns[column])
  const { id: _id, payload: _payload, payload_bytes: _bytes, ...shared } = insertedColumns
  const ofPair: { readonly [column in InsertedColumn]?: string } = {
    id: "d.id",
    payload: "d.value",
    payload_bytes: dialect.bytes("d.value")
  }
  // one row by itself is planned in half of the time that the rows of a JSON text take
  const single = `${into} VALUES (${columnsOf(typed)}) ${orNothing}`
  const pairs = `${into} SELECT ${columnsOf((column) => ofPair[column] ?? typed(column))} FROM ${dialect.pairs.from("text")} WHERE 1 = 1`
  const hinted = { channel: "name", hint: "text" } as const
  return {
    one: {
      name: `${tables.prefix}_create_run`,
      isPlain: true,
      parameters: { ...insertedColumns, ...hinted },
      source: single,
      returns: null
    },
    unique: {
      name: `${tables.prefix}_create_unique_run`,
      isPlain: true,
      parameters: insertedColumns,
      source: `${single} ${dialect.hint.kind === "channel" ? returningId : ""}`,
      returns: { id: "id" }
    },
    alike: {
      name: `${tables.prefix}_create_runs`,
      isPlain: false,
      parameters: { ids: "id[]", values: "text[]", ...shared, ...hinted },
      source: `${pairs} ${orNothing}`,
      // to be ready for a row that is there takes a look before and a record after each: 3 of 8 us
      hopeful: pairs,
      returns: null
    }
  }
}
export const returningId = "RETURNING id"
