/** Creating runs. */
import type { SqlError } from "@effect/sql/SqlError"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { InstanceId } from "../../../Instance.js"
import { RetryTransaction, StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import type { ColumnType } from "../dialect.js"
import { string } from "../runRow.js"
import type { Session, Values } from "../session.js"
import type { Kept, Statement } from "../statement.js"
import { type Asker, json, orAbsent } from "./context.js"
import { insertedColumns, insertedValues, inserting, insertsKept, returningId, withoutNulls } from "./inserts.js"

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
  const foundBy = (column: "id" | "unique_key", index: "primary" | "unique") => `
    SELECT * FROM (
      SELECT r.id, r.unique_key
      FROM ${dialect.rows(":rows", keyColumns)} ${dialect.lookUp(runs, index)} ON r.${column} = d.${column} ${dialect.currentRead}
    ) by_${column}`
  const findHolders = statement(`${foundBy("id", "primary")} UNION ALL ${foundBy("unique_key", "unique")}`)

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

  const insertion = (group: ReadonlyArray<NewRun>, hint: string | null = null): ((session: Session) => Effect.Effect<Taken, SqlError>) => {
    const first = group[0]!
    const [{ counts, silent, telling }, values]: readonly [Insert, Values] =
      group.length === 1
        ? [first.uniqueKey === null ? insertOne : insertUnique, insertedValues(first)]
        : first.uniqueKey === null && group.every((run) => isAlike(run, first))
          ? [insertAlike, Object.assign(dialect.pairs.values(group.map(({ id, payload }) => [id, payload])), insertedValues(first))]
          : [insertMany, { rows: json(group.map((run) => withoutNulls(insertedValues(run)))) }]
    const statement = hint === null ? silent : telling
    Object.assign(values, { channel: runs, hint })
    return (session) => {
      const taken = Effect.flatMap(session.affected(statement, values), (created) =>
        !counts || created === group.length ? nothingTaken : holders(session, group)
      )
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
  }
  const insertRows = (session: Session, group: ReadonlyArray<NewRun>, hint: string | null = null) => insertion(group, hint)(session)

  // the next statement is made ready while the database is at work on one
  const insertInTurn = (session: Session, [first, ...others]: ReadonlyArray<ReadonlyArray<NewRun>>): Effect.Effect<Taken, SqlError> =>
    Effect.gen(function* () {
      const taken: Array<Taken> = []
      let inserting = yield* Effect.fork(insertion(first!)(session))
      for (const group of others) {
        const next = insertion(group)
        taken.push(yield* Fiber.join(inserting))
        inserting = yield* Effect.fork(next(session))
      }
      taken.push(yield* Fiber.join(inserting))
      return together(taken)
    })

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
    insertAll: (all) => untilFound(all, (missing) => database.transact("create runs", (session) => insertInTurn(session, chunks(missing)))),
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
