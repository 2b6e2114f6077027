/** Row <-> run: the one place where bigint, string and number meet, and where a state's number gets its name. */
import type * as DateTime from "effect/DateTime"
import type { InstanceId } from "../../Instance.js"
import type { RunId, RunState, RunStatus } from "../../Run.js"
import { parse } from "../json.js"
import { type Attempted, largestCount } from "../lifecycle.js"
import { momentOf } from "../moment.js"
import type { Row } from "./database.js"
import type { ColumnType, Dialect } from "./dialect.js"

/** 64-bit integers come as number (SQLite), string (PostgreSQL) or bigint (safe integers). */
export const number = (value: unknown): number => Number(value)
export const numberOrNull = (value: unknown): number | null => (value === null || value === undefined ? null : Number(value))
export const string = (value: unknown): string => String(value)
export const stringOrNull = (value: unknown): string | null => (value === null || value === undefined ? null : String(value))

/** The names in a JSON array of the table's; none if that is not what is there. */
export const storedNames = (value: unknown): ReadonlyArray<string> => {
  try {
    const names = parse(string(value))
    return Array.isArray(names) ? names.filter((name) => typeof name === "string") : []
  } catch {
    return []
  }
}

/** A run as a claim returns it: all that running and settling it needs. Times are epoch milliseconds of the database. */
export interface ClaimedRun extends Attempted {
  readonly id: RunId
  readonly originId: RunId
  readonly occurrence: number
  readonly name: string | null
  readonly uniqueKey: string | null
  readonly job: string
  readonly queue: string
  readonly priority: number
  readonly runAt: number
  /** when it was due at first, if it was tried before */
  readonly firstDueAt: number | null
  readonly createdAt: number
  readonly createdBy: InstanceId
  readonly claimedAt: number
  readonly fence: number
  readonly token: string
  readonly cancelRequested: boolean
  readonly timeoutMillis: number | null
  readonly backoff: string | null
  readonly payload: string
  readonly traceparent: string | null
}

/** what travels with every run of a claim; its queue and its token are known to whoever claims */
const claimedColumns = {
  id: "id",
  job: "name",
  priority: "small",
  run_at: "big",
  created_at: "big",
  created_by: "id",
  claimed_at: "big",
  fence: "big",
  max_errors: "int",
  max_timeouts: "int",
  max_crashes: "int",
  timeout_ms: "big",
  payload: "text",
  traceparent: "text"
} satisfies { [column: string]: ColumnType }

/** what nearly all runs have in common: it travels only with those that differ, for a column costs a driver 0.2 us per row */
const usual: { readonly [column: string]: (column: string, prefix: string) => string } = {
  origin_id: (column, prefix) => `${prefix}${column} = ${prefix}id`,
  occurrence: isZero,
  name: isNull,
  unique_key: isNull,
  schedule: isNull,
  cancel_at: isNull,
  first_due_at: isNull,
  errors: isZero,
  timeouts: isZero,
  crashes: isZero,
  success_count: isZero,
  success_limit: isNull,
  backoff: isNull
}
function isZero(column: string, prefix: string) {
  return `${prefix}${column} = 0`
}
function isNull(column: string, prefix: string) {
  return `${prefix}${column} IS NULL`
}

/** The types of what a claim returns of a run. */
export const claimTypes: { readonly [column: string]: ColumnType } = { ...claimedColumns, unusual: "text" }

/** What a claim returns of a run. */
export const claimColumns =
  ({ jsonObject }: Pick<Dialect, "jsonObject">) =>
  (prefix: string): string => {
    const conditions = Object.entries(usual).map(([column, condition]) => condition(column, prefix))
    const members = jsonObject(Object.fromEntries(Object.keys(usual).map((column) => [column, `${prefix}${column}`])))
    return [
      ...Object.keys(claimedColumns).map((column) => `${prefix}${column}`),
      `CASE WHEN ${conditions.join(" AND ")} THEN NULL ELSE ${members} END AS unusual`
    ].join(", ")
  }

const asUsual: Row = { occurrence: 0, errors: 0, timeouts: 0, crashes: 0, success_count: 0 }

export const claimedRun = (row: Row, queue: string, token: string): ClaimedRun => {
  const rest = row.unusual === null ? asUsual : (JSON.parse(string(row.unusual)) as Row)
  return {
    id: string(row.id) as RunId,
    originId: string(rest.origin_id ?? row.id) as RunId,
    occurrence: number(rest.occurrence),
    name: stringOrNull(rest.name),
    uniqueKey: stringOrNull(rest.unique_key),
    job: string(row.job),
    queue,
    schedule: stringOrNull(rest.schedule),
    priority: number(row.priority),
    runAt: number(row.run_at),
    firstDueAt: numberOrNull(rest.first_due_at),
    createdAt: number(row.created_at),
    createdBy: string(row.created_by) as InstanceId,
    claimedAt: number(row.claimed_at),
    fence: number(row.fence),
    token,
    cancelRequested: rest.cancel_at !== null && rest.cancel_at !== undefined,
    errors: number(rest.errors),
    timeouts: number(rest.timeouts),
    crashes: number(rest.crashes),
    maxErrors: numberOrNull(row.max_errors),
    maxTimeouts: numberOrNull(row.max_timeouts),
    maxCrashes: numberOrNull(row.max_crashes),
    timeoutMillis: numberOrNull(row.timeout_ms),
    successCount: number(rest.success_count),
    successLimit: numberOrNull(rest.success_limit),
    backoff: stringOrNull(rest.backoff),
    payload: string(row.payload),
    traceparent: stringOrNull(row.traceparent)
  }
}

/** Which try it is, from 1. */
export const attemptOf = (run: Pick<Attempted, "errors" | "timeouts" | "crashes">): number =>
  Math.min(run.errors + run.timeouts + run.crashes + 1, largestCount)

export const stateColumns = [
  "id",
  "origin_id",
  "occurrence",
  "name",
  "job",
  "queue",
  "schedule",
  "state",
  "run_at",
  "created_at",
  "created_by",
  "claimed_at",
  "started_at",
  "started_by",
  "owner",
  "finished_at",
  "errors",
  "timeouts",
  "crashes",
  "success_count",
  "result",
  "error"
] as const

const statuses: ReadonlyArray<RunStatus> = ["ready", "running", "succeeded", "failed", "cancelled", "parked", "ready"]

// rows that were written by hand must not break whoever reads them
const moment = (value: unknown): DateTime.Utc => momentOf(number(value))
const parsedOr = (text: string): unknown => {
  try {
    return parse(text)
  } catch {
    return text
  }
}
const momentOrNull = (value: unknown): DateTime.Utc | null => (value === null ? null : moment(value))

export const runState = (row: Row): RunState => {
  const status = statuses[number(row.state)] ?? "failed"
  const failures = number(row.errors) + number(row.timeouts) + number(row.crashes)
  const result = stringOrNull(row.result)
  return {
    id: string(row.id) as RunId,
    originId: string(row.origin_id) as RunId,
    name: stringOrNull(row.name),
    job: string(row.job),
    queue: string(row.queue),
    schedule: stringOrNull(row.schedule),
    status,
    // the failure that ended a run is counted already
    attempt: status === "failed" ? Math.max(1, failures) : failures + 1,
    occurrence: number(row.occurrence),
    runAt: moment(row.run_at),
    startedAt: momentOrNull(status === "running" ? row.claimed_at : row.started_at),
    startedBy: stringOrNull(status === "running" ? row.owner : row.started_by) as InstanceId | null,
    completedAt: momentOrNull(row.finished_at),
    completedError: stringOrNull(row.error),
    result: result === null ? null : parsedOr(result),
    successCount: number(row.success_count),
    retriesOnErrorCount: number(row.errors),
    retriesOnTimeoutCount: number(row.timeouts),
    crashCount: number(row.crashes),
    createdAt: moment(row.created_at),
    createdBy: string(row.created_by) as InstanceId
  }
}
