/** An outcome as statements know it: its row, and whether it is in the table. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import { type Settlement, State } from "../../lifecycle.js"
import type { Database } from "../database.js"
import type { ColumnType } from "../dialect.js"
import { type ClaimedRun, number, string } from "../runRow.js"
import type { Row } from "../session.js"
import { json, orAbsent } from "./context.js"

/** A settled attempt: whose it is, what to write, and the id of what follows. */
export interface Settled {
  readonly run: ClaimedRun
  readonly settlement: Settlement
  /** the true start of the attempt, or null if it did not start */
  readonly startedAt: number | null
  readonly successorId: RunId | null
}

/** Those of a group whose outcome is in the table, as the objects that they were given as. */
export type Recorded = ReadonlySet<ClaimedRun>

/** One claim of a run, for its outcome alone: the run may have been taken back, and claimed again. */
const claimKey = ({ fence, id }: Pick<ClaimedRun, "id" | "fence">): string => `${id} ${fence}`

export const settledColumns = {
  run_id: "id",
  fence: "big",
  token: "id",
  state: "small",
  delay: "big",
  errors: "int",
  timeouts: "int",
  success_count: "int",
  result: "text",
  error: "text",
  late: "small",
  started_at: "big"
} satisfies { [column: string]: ColumnType }

export const settledRows = (group: ReadonlyArray<Settled>) =>
  json(
    group.map(({ run, settlement, startedAt }) => ({
      run_id: run.id,
      fence: run.fence,
      token: run.token,
      state: settlement.state,
      delay: orAbsent(settlement.delayMillis),
      errors: settlement.errors,
      timeouts: settlement.timeouts,
      success_count: settlement.successCount,
      result: orAbsent(settlement.result),
      error: orAbsent(settlement.error),
      late: settlement.late ? 1 : 0,
      started_at: orAbsent(startedAt)
    }))
  )

export const allOf = (group: ReadonlyArray<Settled>): Recorded => new Set(group.map(({ run }) => run))
export const among =
  (group: ReadonlyArray<Settled>) =>
  (rows: ReadonlyArray<Row>): Recorded => {
    const claims = new Set(rows.map((row) => claimKey({ id: string(row.id) as RunId, fence: number(row.fence) })))
    return allOf(group.filter(({ run }) => claims.has(claimKey(run))))
  }

/** Those of a group whose outcome was recorded by an earlier write, whose answer was lost. */
export const recordedBefore = ({ dialect, read, statement, tables }: Pick<Database, "dialect" | "read" | "statement" | "tables">) => {
  const selectSettled = statement(`
    SELECT r.id, r.fence FROM ${dialect.rows(":rows", settledColumns)}
    ${dialect.lookUp(tables.runs, "primary")} ON r.id = d.run_id
    WHERE r.claim_token = d.token AND r.state <> ${State.running}`)
  return (group: ReadonlyArray<Settled>): Effect.Effect<Recorded, StorageError> =>
    Effect.map(
      read("look for settled runs", (session) => session.rows(selectSettled, { rows: settledRows(group) })),
      among(group)
    )
}
