/** Setting aside what nobody knows, and deleting what was kept long enough. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import { priorities, State } from "../../lifecycle.js"
import type { ColumnType } from "../dialect.js"
import { instancesKeptMillis } from "../instanceStore.js"
import { number, storedNames, string } from "../runRow.js"
import { valuesOf } from "../statement.js"
import { type Asker, idColumns, json, knownCondition } from "./context.js"

/** How long finished runs are kept, in milliseconds; null: for ever. */
export interface Kept {
  readonly succeeded: number | null
  readonly failed: number | null
  readonly cancelled: number | null
}

/** What there is to do, found in two statements. */
export interface Chores {
  /** there are parked runs that this instance knows */
  readonly unpark: boolean
  /** due runs at the head of this instance's queues that no living instance knows */
  readonly unknown: ReadonlyArray<RunId>
  readonly finished: { readonly [outcome in keyof Kept]: boolean }
  readonly endedInstances: boolean
}

export interface Housekeep {
  readonly chores: (kept: Kept) => Effect.Effect<Chores, StorageError>
  readonly park: (unknown: ReadonlyArray<RunId>) => Effect.Effect<number, StorageError>
  readonly unpark: Effect.Effect<number, StorageError>
  /** deletes some runs that finished longer ago than they are kept; returns how many */
  readonly deleteFinished: (outcome: keyof Kept, keptMillis: number) => Effect.Effect<number, StorageError>
}

/** How many runs are unparked at once. */
const unparkBatch = 1000
/** How many runs are deleted at once, */
const retentionBatch = 1000
/** and where that stops the whole process, which it does for 100 us each. */
const retentionBatchAtOnce = 100
/** Runs that nobody knows slow a claim only where it reads: at the head of each priority. */
const headRows = 1000

export const make = ({ database, known: jobsAndSchedules, queues }: Asker): Housekeep => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { attempts, instances, runs } = tables
  const known = knownCondition(dialect, jobsAndSchedules)

  // the least of them, which an index has: a planner that takes EXISTS for likely reads the table until it comes upon one
  const some = (name: string, column: string, of: string) =>
    `CASE WHEN (SELECT MIN(${column}) FROM ${of}) IS NULL THEN 0 ELSE 1 END AS ${name}`
  const outlived = (outcome: keyof Kept) =>
    some(outcome, "finished_at", `${runs} WHERE state = ${State[outcome]} AND finished_at < ${now} - ${dialect.big(`:${outcome}`)}`)
  const selectChores = statement(`
    SELECT jobs, schedules,
      ${some("parked", "job", `${runs} WHERE state = ${State.parked} ${known.sql}`)},
      ${outlived("succeeded")}, ${outlived("failed")}, ${outlived("cancelled")},
      ${some("ended", "seen_at", `${instances} WHERE state IN (2, 3) AND seen_at < ${now} - ${instancesKeptMillis}`)}
    FROM ${instances} WHERE state IN (0, 1)`)

  const nameColumns = { name: "name" } satisfies { [column: string]: ColumnType }
  // due for a minute, so that an instance that is just starting has its chance
  const heads = queues.flatMap((_, q) =>
    priorities.map(
      (priority) => `
      SELECT * FROM (
        SELECT id, job, schedule FROM ${runs} ${dialect.useIndex(tables, "claim")}
        WHERE state = ${State.ready} AND queue = :queue${q} AND priority = ${priority} AND run_at <= ${now} - 60000
        ORDER BY run_at
        LIMIT ${headRows}
      ) q${q}p${priority}`
    )
  )
  const selectUnknown = statement(`
    SELECT id FROM (${heads.join(" UNION ALL ")}) head
    WHERE job NOT IN (SELECT d.name FROM ${dialect.rows(":jobs", nameColumns)})
       OR (schedule IS NOT NULL AND schedule NOT IN (SELECT d.name FROM ${dialect.rows(":schedules", nameColumns)}))
    LIMIT ${headRows}`)
  const queueValues = valuesOf("queue", queues)
  const names = (list: ReadonlyArray<string>) => json([...new Set(list)].map((name) => ({ name })))

  const never = Number.MAX_SAFE_INTEGER
  const chores: Housekeep["chores"] = (kept) =>
    Effect.gen(function* () {
      const living = yield* database.read("look for chores", (session) =>
        session.rows(selectChores, {
          ...known.values,
          succeeded: kept.succeeded ?? never,
          failed: kept.failed ?? never,
          cancelled: kept.cancelled ?? never
        })
      )
      const all = (column: "jobs" | "schedules") => living.flatMap((row) => storedNames(row[column]))
      const unknown = yield* database.read("look for unknown runs", (session) =>
        session.rows(selectUnknown, { ...queueValues, jobs: names(all("jobs")), schedules: names(all("schedules")) })
      )
      const is = (name: string) => number(living[0]?.[name] ?? 0) === 1
      return {
        unpark: is("parked"),
        unknown: living.length === 0 ? [] : unknown.map((row) => string(row.id) as RunId),
        finished: { succeeded: is("succeeded"), failed: is("failed"), cancelled: is("cancelled") },
        endedInstances: is("ended")
      }
    })

  const parkUnknown = statement(
    dialect.updateFrom({
      table: runs,
      rows: dialect.rows(":rows", idColumns),
      set: { state: String(State.parked) },
      on: "r.id = d.id",
      where: `${dialect.hidden("r.state")} = ${State.ready}`
    })
  )
  const park: Housekeep["park"] = (unknown) =>
    database.writeMany("park runs", unknown.length, (session) =>
      session.affected(parkUnknown, { rows: json(unknown.map((id) => ({ id }))) })
    )

  const unparkKnown = statement(
    dialect.updateLimited({
      table: runs,
      set: `state = CASE WHEN crashes > 0 THEN ${State.suspect} ELSE ${State.ready} END`,
      where: `state = ${State.parked} ${known.sql}`,
      limit: unparkBatch
    })
  )
  const unpark: Housekeep["unpark"] = database.writeMany("unpark runs", unparkBatch, (session) =>
    session.affected(unparkKnown, known.values)
  )

  const selectFinished = statement(`
    SELECT id FROM ${runs}
    WHERE state = :state AND finished_at < ${now} - ${dialect.big(":kept")}
    ORDER BY finished_at
    LIMIT ${dialect.answersAtOnce ? retentionBatchAtOnce : retentionBatch}
    ${dialect.skipLocked}`)
  const deleteAttempts = statement(dialect.deleteIn(attempts, "run_id", dialect.rows(":rows", idColumns)))
  const deleteRuns = statement(dialect.deleteIn(runs, "id", dialect.rows(":rows", idColumns)))

  const deleteFinished: Housekeep["deleteFinished"] = (outcome, kept) =>
    database.transact("delete finished runs", (session) =>
      Effect.gen(function* () {
        const locked = yield* session.rows(selectFinished, { state: State[outcome], kept })
        if (locked.length === 0) return 0
        const rows = json(locked.map((row) => ({ id: string(row.id) })))
        yield* session.affected(deleteAttempts, { rows })
        yield* session.affected(deleteRuns, { rows })
        return locked.length
      })
    )

  return { chores, park, unpark, deleteFinished }
}
