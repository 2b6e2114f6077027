/** Setting aside what nobody knows, and deleting what was kept long enough. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import { State } from "../../lifecycle.js"
import type { ColumnType } from "../dialect.js"
import { string } from "../runRow.js"
import { type Asker, idColumns, json, knownCondition } from "./context.js"

export interface Housekeep {
  readonly park: Effect.Effect<number, StorageError>
  readonly unpark: Effect.Effect<number, StorageError>
  /** deletes at most 1,000 runs that finished longer ago than they are kept; returns how many */
  readonly deleteFinished: (state: State, keptMillis: number) => Effect.Effect<number, StorageError>
}

const retentionBatch = 1000

export const make = ({ database, known: jobsAndSchedules }: Asker): Housekeep => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { attempts, instances, runs } = tables
  const known = knownCondition(jobsAndSchedules)

  const selectKnown = statement(`SELECT jobs, schedules FROM ${instances} WHERE state IN (0, 1)`)
  const nameColumns = { name: "name" } satisfies { [column: string]: ColumnType }
  // due for a minute, so that an instance that is just starting has its chance
  const parkUnknown = statement(
    dialect.updateLimited({
      table: runs,
      set: `state = ${State.parked}`,
      where: `state = ${State.ready} AND run_at <= ${now} - 60000 AND (
        job NOT IN (SELECT d.name FROM ${dialect.rows(":jobs", nameColumns)})
        OR (schedule IS NOT NULL AND schedule NOT IN (SELECT d.name FROM ${dialect.rows(":schedules", nameColumns)})))`,
      limit: 1000
    })
  )
  const names = (list: ReadonlyArray<string>) => json([...new Set(list)].map((name) => ({ name })))
  const park: Housekeep["park"] = Effect.gen(function* () {
    const living = yield* database.read("list what instances know", (session) => session.rows(selectKnown, {}))
    const all = (column: "jobs" | "schedules") => living.flatMap((row) => JSON.parse(string(row[column])) as ReadonlyArray<string>)
    return yield* database.write("park runs", (session) =>
      session.affected(parkUnknown, { jobs: names(all("jobs")), schedules: names(all("schedules")) })
    )
  })

  const unparkKnown = statement(
    dialect.updateLimited({ table: runs, set: `state = ${State.ready}`, where: `state = ${State.parked} ${known.sql}`, limit: 1000 })
  )
  const unpark: Housekeep["unpark"] = database.write("unpark runs", (session) => session.affected(unparkKnown, known.values))

  const selectFinished = statement(`
    SELECT id FROM ${runs}
    WHERE state = :state AND finished_at < ${now} - ${dialect.big(":kept")}
    ORDER BY finished_at
    LIMIT ${retentionBatch}
    ${dialect.skipLocked}`)
  const deleteAttempts = statement(`DELETE FROM ${attempts} WHERE run_id IN (SELECT d.id FROM ${dialect.rows(":rows", idColumns)})`)
  const deleteRuns = statement(`DELETE FROM ${runs} WHERE id IN (SELECT d.id FROM ${dialect.rows(":rows", idColumns)})`)

  const deleteFinished: Housekeep["deleteFinished"] = (state, kept) =>
    Effect.flatMap(
      database.read("look for runs to delete", (session) => session.rows(selectFinished, { state, kept })),
      (found) =>
        found.length === 0
          ? Effect.succeed(0)
          : database.transact("delete finished runs", (session) =>
              Effect.gen(function* () {
                const locked = yield* session.rows(selectFinished, { state, kept })
                if (locked.length === 0) return 0
                const rows = json(locked.map((row) => ({ id: string(row.id) })))
                yield* session.affected(deleteAttempts, { rows })
                yield* session.affected(deleteRuns, { rows })
                return locked.length
              })
            )
    )

  return { park, unpark, deleteFinished }
}
