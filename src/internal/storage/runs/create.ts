/** Creating runs. */
import type { SqlError } from "@effect/sql/SqlError"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { InstanceId } from "../../../Instance.js"
import { RetryTransaction, StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import { State } from "../../lifecycle.js"
import type { Database } from "../database.js"
import type { ColumnType } from "../dialect.js"
import { string } from "../runRow.js"
import type { Session, Values } from "../session.js"
import type { Kept, Statement, Value } from "../statement.js"
import { type Asker, json, orAbsent } from "./context.js"

/** A run to be created. */
export interface NewRun {
  readonly id: RunId
  readonly job: string
  readonly queue: string
  readonly schedule: string | null
  readonly name: string | null
  readonly uniqueKey: string | null
  readonly priority: number
  /** a moment of the database's clock, or null for now */
  readonly runAt: number | null
  /** added to that moment */
  readonly delayMillis: number
  readonly createdBy: InstanceId
  readonly maxErrors: number | null
  readonly maxTimeouts: number | null
  readonly maxCrashes: number | null
  readonly timeoutMillis: number | null
  readonly successLimit: number | null
  readonly backoff: string | null
  readonly payload: string
  readonly payloadBytes: number
  readonly traceparent: string | null
}

export interface Create {
  /** the transaction that a fiber with this context has open, if it is one of our database's */
  readonly transactionOf: (context: Context.Context<never>) => Session | null
  /** whether the driver is synchronous */
  readonly answersAtOnce: boolean
  /** how many of some runs fit into one statement, at least one */
  readonly fitting: (runs: Iterable<NewRun>) => number
  /**
   * Creates runs, each with a commit of its own at the latest when this returns; the id of each, or of the run that holds its unique
   * key. Fails as a whole; on `ambiguous` they may have been created, and on MySQL also when some of a group had to be created one by
   * one, for a key of it was held. A repeat of the same runs creates none twice. A hint goes with it, where there is a channel for it.
   */
  readonly insert: (runs: ReadonlyArray<NewRun>, hint: string | null) => Effect.Effect<ReadonlyArray<RunId>, StorageError>
  /** whether `insert` creates these all or none */
  readonly isOneStatement: (runs: ReadonlyArray<NewRun>) => boolean
  /** creates runs, all or none, in a transaction of their own */
  readonly insertAll: (runs: ReadonlyArray<NewRun>) => Effect.Effect<ReadonlyArray<RunId>, StorageError>
  /** creates runs in somebody's transaction, which cannot go on if this fails */
  readonly insertWithin: (
    session: Session,
    runs: ReadonlyArray<NewRun>
  ) => Effect.Effect<ReadonlyArray<RunId>, StorageError | RetryTransaction>
}

/** The most that goes in one statement: what a database takes of parameters is far more, what it takes of bytes is not. */
const statementRows = 2000
/** where a statement stops the whole process */
const statementRowsAtOnce = 500
const statementBytes = 4 * 1024 * 1024

const insertedColumns = {
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

const insertedValues = (run: NewRun): { readonly [C in InsertedColumn]: Value } => ({
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
const withoutNulls = (values: { readonly [column: string]: Value }) =>
  Object.fromEntries(Object.entries(values).filter(([_, value]) => value !== null))

/** an INSERT of all columns, given how each of those that differ is said */
const inserting = ({ dialect: { now, returning }, tables: { runs } }: Pick<Database, "dialect" | "tables">) => {
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
      source: `${into} SELECT ${columnsOf((column) => ofPair[column] ?? typed(column))} FROM ${dialect.pairs.from("text")} WHERE 1 = 1 ${orNothing}`,
      returns: null
    }
  }
}
const returningId = "RETURNING id"

export const make = ({ database }: Asker): Create => {
  const { dialect, kept, statement, tables } = database
  const { runs } = tables
  const { columnsOf, into, orNothing } = inserting(database)

  interface Insert {
    readonly silent: Statement
    /** a hint goes with it */
    readonly telling: Statement
    /** whether it says how many it has created */
    readonly counts: boolean
  }
  const counted = (source: string, returning = source): Insert => {
    const { hint } = dialect
    return { silent: statement(source), telling: statement(hint.kind === "channel" ? hint.within(returning) : source), counts: true }
  }
  const called = (one: Kept): Insert => {
    const call = statement(kept(one))
    return { silent: call, telling: call, counts: dialect.keep === null }
  }

  const { alike, one, unique } = insertsKept(database)
  const insertOne = called(one)
  const insertUnique = counted(kept(unique))
  const insertAlike = called(alike)
  const many = `
    ${into} SELECT ${columnsOf((column) => `d.${column}`)} FROM ${dialect.rows(":rows", insertedColumns)} WHERE 1 = 1 ${orNothing}`
  const insertMany = counted(many, `${many} ${returningId}`)

  const keyColumns = { id: "id", unique_key: "key" } satisfies { [column: string]: ColumnType }
  // two looks rather than one with OR, for which not every planner takes both indexes
  const foundBy = (column: "id" | "unique_key") => `
    SELECT * FROM (
      SELECT r.id, r.unique_key FROM ${dialect.rows(":rows", keyColumns)} ${dialect.lookUp} ${runs} r ON r.${column} = d.${column} ${dialect.currentRead}
    ) by_${column}`
  const findHolders = statement(`${foundBy("id")} UNION ALL ${foundBy("unique_key")}`)

  const fitting = fittingIn(dialect.answersAtOnce ? statementRowsAtOnce : statementRows)
  const chunks = (all: ReadonlyArray<NewRun>): ReadonlyArray<ReadonlyArray<NewRun>> => {
    const groups: Array<ReadonlyArray<NewRun>> = []
    for (let rest = all; rest.length > 0; ) {
      const size = fitting(rest)
      groups.push(rest.slice(0, size))
      rest = rest.slice(size)
    }
    return groups
  }

  /** of the runs that were not created, who holds their key; null: that one ended between the insert and the look */
  type Taken = ReadonlyMap<RunId, RunId | null>
  const nothingTaken = Effect.succeed<Taken>(new Map())
  const together = (all: ReadonlyArray<Taken>): Taken => new Map(all.flatMap((taken) => [...taken]))

  const holders = (session: Session, wanted: ReadonlyArray<NewRun>): Effect.Effect<Taken, SqlError> =>
    Effect.map(
      session.rows(findHolders, { rows: json(wanted.map(({ id, uniqueKey }) => ({ id, unique_key: orAbsent(uniqueKey) }))) }),
      (rows) => {
        const ids = new Set(rows.map((row) => string(row.id)))
        const byKey = new Map(rows.map((row) => [row.unique_key, string(row.id) as RunId]))
        return new Map(
          wanted.flatMap(({ id, uniqueKey }) =>
            ids.has(id) ? [] : [[id, (uniqueKey === null ? undefined : byKey.get(uniqueKey)) ?? null] as const]
          )
        )
      }
    )

  const insertRows = (session: Session, group: ReadonlyArray<NewRun>, hint: string | null = null): Effect.Effect<Taken, SqlError> => {
    const first = group[0]!
    const [{ counts, silent, telling }, values]: readonly [Insert, Values] =
      group.length === 1
        ? [first.uniqueKey === null ? insertOne : insertUnique, insertedValues(first)]
        : first.uniqueKey === null && group.every((run) => isAlike(run, first))
          ? [insertAlike, Object.assign(dialect.pairs.values(group.map(({ id, payload }) => [id, payload])), insertedValues(first))]
          : [insertMany, { rows: json(group.map((run) => withoutNulls(insertedValues(run)))) }]
    const inserted = session.affected(hint === null ? silent : telling, Object.assign(values, { channel: runs, hint }))
    const taken = Effect.flatMap(inserted, (created) => (!counts || created === group.length ? nothingTaken : holders(session, group)))
    return dialect.returning
      ? taken
      : Effect.catchIf(
          taken,
          (error) => dialect.failure(error) === "unique",
          () =>
            group.length === 1
              ? holders(session, group)
              : Effect.map(
                  Effect.forEach(group, (run) => insertRows(session, [run])),
                  together
                )
        )
  }

  // the holder of a key can end between the insert and the look: then there is room for ours
  const untilFound = (
    group: ReadonlyArray<NewRun>,
    insert: (missing: ReadonlyArray<NewRun>) => Effect.Effect<Taken, StorageError>,
    rounds = 5
  ): Effect.Effect<ReadonlyArray<RunId>, StorageError> =>
    Effect.flatMap(insert(group), (taken) => {
      if (taken.size === 0) return Effect.succeed(group.map(({ id }) => id))
      const missing = group.filter(({ id }) => taken.get(id) === null)
      if (missing.length === 0) return Effect.succeed(group.map(({ id }) => taken.get(id) ?? id))
      if (rounds === 1) return new StorageError({ operation: "create a run", reason: "contention" })
      return Effect.map(untilFound(missing, insert, rounds - 1), (ids) => {
        const found = new Map(missing.map(({ id }, i) => [id, ids[i]!]))
        return group.map(({ id }) => found.get(id) ?? taken.get(id) ?? id)
      })
    })

  // in the order of their keys, so that two groups that share some wait for each other instead of deadlocking
  const byKey = (a: NewRun, b: NewRun) => ((a.uniqueKey ?? "") < (b.uniqueKey ?? "") ? -1 : 1)

  return {
    transactionOf: database.transactionOf,
    answersAtOnce: dialect.answersAtOnce,
    fitting,
    // where a key that is taken is an error, it takes a statement for each
    isOneStatement: (all) => dialect.returning && fitting(all) === all.length,
    insert: (group, hint) =>
      untilFound(group, (missing) => database.write("create a run", (session) => insertRows(session, missing, hint))),
    insertAll: (all) =>
      untilFound(all, (missing) =>
        database.transact("create runs", (session) =>
          Effect.map(
            Effect.forEach(chunks(missing), (chunk) => insertRows(session, chunk)),
            together
          )
        )
      ),
    insertWithin: (session, all) =>
      database
        .within(session)
        .write("create a run", (session) => Effect.forEach(chunks([...all].sort(byKey)), (chunk) => insertRows(session, chunk)))
        .pipe(
          Effect.mapError((error): StorageError | RetryTransaction =>
            error.reason === "contention" ? new RetryTransaction({ operation: error.operation, cause: error.cause }) : error
          ),
          Effect.map(together),
          Effect.flatMap((taken) => {
            const ids = all.flatMap(({ id }) => (taken.has(id) ? (taken.get(id) ?? []) : id))
            return ids.length === all.length ? Effect.succeed(ids) : new RetryTransaction({ operation: "create a run" })
          })
        )
  }
}

const fittingIn =
  (limit: number) =>
  (all: Iterable<NewRun>): number => {
    let rows = 0
    let bytes = 0
    for (const run of all) {
      bytes += run.payloadBytes
      if (rows === limit || (rows > 0 && bytes > statementBytes)) break
      rows++
    }
    return rows
  }

const common = Object.keys({
  job: true,
  queue: true,
  schedule: true,
  name: true,
  uniqueKey: true,
  priority: true,
  runAt: true,
  delayMillis: true,
  createdBy: true,
  maxErrors: true,
  maxTimeouts: true,
  maxCrashes: true,
  timeoutMillis: true,
  successLimit: true,
  backoff: true,
  traceparent: true
} satisfies { [K in Exclude<keyof NewRun, "id" | "payload" | "payloadBytes">]: true }) as ReadonlyArray<keyof NewRun>
const isAlike = (a: NewRun, b: NewRun): boolean => common.every((key) => a[key] === b[key])
