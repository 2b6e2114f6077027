/** Row <-> run: the one place where bigint, string and number meet, and where a state's number gets its name. */
import type * as DateTime from "effect/DateTime"
import type { InstanceId } from "../../Instance.js"
import type { RunId, RunState, RunStatus } from "../../Run.js"
import { parse } from "../json.js"
import { type Attempted, largestCount } from "../lifecycle.js"
import { momentOf } from "../moment.js"
import type { ColumnType, Dialect } from "./dialect.js"
import type { Row } from "./session.js"

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

/**
 * What travels with every run of a claim but its payload, as two texts, for a column costs a driver 0.2 us per row, and five times that
 * until it is compiled: what each run has of its own, and what many have in common. The queue and the token are known to whoever claims.
 */
const ownColumns = ["id", "run_at", "created_at", "traceparent"]
/** the job is the last, since its name may have a comma */
const sharedColumns = ["priority", "claimed_at", "created_by", "fence", "max_errors", "max_timeouts", "max_crashes", "timeout_ms", "job"]

/** what nearly all runs have in common with all others: it travels only with those that differ */
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
export const claimTypes = { own: "text", shared: "text", payload: "text", unusual: "text" } satisfies { [column: string]: ColumnType }

/** What a claim returns of a run. */
export const claimColumns =
  ({ joined, jsonObject }: Pick<Dialect, "joined" | "jsonObject">) =>
  (prefix: string): string => {
    const conditions = Object.entries(usual).map(([column, condition]) => condition(column, prefix))
    const members = jsonObject(Object.fromEntries(Object.keys(usual).map((column) => [column, `${prefix}${column}`])))
    const text = (columns: ReadonlyArray<string>) => joined(columns.map((column) => `${prefix}${column}`))
    return [
      `${text(ownColumns)} AS own`,
      `${text(sharedColumns)} AS shared`,
      `${prefix}payload`,
      `CASE WHEN ${conditions.join(" AND ")} THEN NULL ELSE ${members} END AS unusual`
    ].join(", ")
  }

const asUsual: Row = { occurrence: 0, errors: 0, timeouts: 0, crashes: 0, success_count: 0 }

type Shared = Pick<
  ClaimedRun,
  "priority" | "claimedAt" | "createdBy" | "fence" | "maxErrors" | "maxTimeouts" | "maxCrashes" | "timeoutMillis" | "job"
>
const shared = (text: string): Shared => {
  const [priority, claimedAt, createdBy, fence, maxErrors, maxTimeouts, maxCrashes, timeoutMillis, ...job] = text.split(",")
  const limit = (text: string | undefined) => (text === "" ? null : Number(text))
  return {
    priority: number(priority),
    claimedAt: number(claimedAt),
    createdBy: string(createdBy) as InstanceId,
    fence: number(fence),
    maxErrors: limit(maxErrors),
    maxTimeouts: limit(maxTimeouts),
    maxCrashes: limit(maxCrashes),
    timeoutMillis: limit(timeoutMillis),
    job: job.join(",")
  }
}

/** The runs of one claim. */
export const claimedRuns = (rows: ReadonlyArray<Row>, queue: string, token: string): Array<ClaimedRun> => {
  const known = new Map<string, Shared>()
  return rows.map((row) => {
    const text = string(row.shared)
    let common = known.get(text)
    if (common === undefined) {
      common = shared(text)
      known.set(text, common)
    }
    return claimedRun(row, common, queue, token)
  })
}

const claimedRun = (row: Row, common: Shared, queue: string, token: string): ClaimedRun => {
  const [id, runAt, createdAt, traceparent] = string(row.own).split(",")
  const rest = row.unusual === null ? asUsual : (JSON.parse(string(row.unusual)) as Row)
  return {
    id: id as RunId,
    originId: string(rest.origin_id ?? id) as RunId,
    occurrence: number(rest.occurrence),
    name: stringOrNull(rest.name),
    uniqueKey: stringOrNull(rest.unique_key),
    job: common.job,
    queue,
    schedule: stringOrNull(rest.schedule),
    priority: common.priority,
    runAt: number(runAt),
    firstDueAt: numberOrNull(rest.first_due_at),
    createdAt: number(createdAt),
    createdBy: common.createdBy,
    claimedAt: common.claimedAt,
    fence: common.fence,
    token,
    cancelRequested: rest.cancel_at !== null && rest.cancel_at !== undefined,
    errors: number(rest.errors),
    timeouts: number(rest.timeouts),
    crashes: number(rest.crashes),
    maxErrors: common.maxErrors,
    maxTimeouts: common.maxTimeouts,
    maxCrashes: common.maxCrashes,
    timeoutMillis: common.timeoutMillis,
    successCount: number(rest.success_count),
    successLimit: numberOrNull(rest.success_limit),
    backoff: stringOrNull(rest.backoff),
    payload: string(row.payload),
    traceparent: traceparent === "" ? null : string(traceparent)
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
