/** What the statements about runs share: the columns that travel as JSON, and whose statements they are. */
import type { InstanceId } from "../../../Instance.js"
import { State } from "../../lifecycle.js"
import type { Database } from "../database.js"
import type { ColumnType, Dialect } from "../dialect.js"
import type { Condition } from "../statement.js"

/** The jobs and schedules an instance knows. */
export interface Known {
  readonly jobs: ReadonlyArray<string>
  readonly schedules: ReadonlyArray<string>
}

/** Who asks. */
export interface Asker {
  readonly database: Database
  readonly me: InstanceId
  readonly known: Known
  readonly queues: ReadonlyArray<string>
  readonly leaseMillis: number
}

/** An earlier attempt, on its way into the attempts table. */
export const attemptColumns = {
  run_id: "id",
  fence: "big",
  attempt: "int",
  started_at: "big",
  outcome: "name",
  error: "text"
} satisfies { [column: string]: ColumnType }

export const idColumns = { id: "id" } satisfies { [column: string]: ColumnType }

/** JSON leaves out what is undefined, and what is left out is NULL on every database */
export const orAbsent = <A>(value: A | null): A | undefined => (value === null ? undefined : value)
export const json = JSON.stringify

/** A count or a fence and one more. A row written by hand may stand at the end of its type, where one more fails the whole statement. */
export const counted = (column: string): string => `CASE WHEN ${column} < 2147483647 THEN ${column} + 1 ELSE ${column} END`
export const risen = (fence: string): string => `CASE WHEN ${fence} < ${Number.MAX_SAFE_INTEGER} THEN ${fence} + 1 ELSE 1 END`

/** What a run becomes that nobody works on any more: cancelled, if that was asked for, or ready, or a suspect. `r`: what stands before a column. */
export const putBack = (now: string, r: string, isSuspect: string) => ({
  state: `CASE WHEN ${r}cancel_at IS NOT NULL THEN ${State.cancelled} WHEN ${isSuspect} THEN ${State.suspect} ELSE ${State.ready} END`,
  finished_at: `CASE WHEN ${r}cancel_at IS NULL THEN NULL ELSE ${now} END`,
  unique_key: `CASE WHEN ${r}cancel_at IS NULL THEN ${r}unique_key ELSE NULL END`,
  owner: "NULL",
  deadline_at: "NULL"
})

/** What an instance knows, as a condition with its parameters. */
export const knownCondition = ({ oneOf }: Pick<Dialect, "oneOf">, known: Known): Condition => {
  const jobs = oneOf("job", "jobs", known.jobs)
  const schedules = oneOf("schedule", "schedules", known.schedules)
  return {
    sql: `AND ${jobs.sql} AND (schedule IS NULL OR ${schedules.sql})`,
    values: { ...jobs.values, ...schedules.values }
  }
}
