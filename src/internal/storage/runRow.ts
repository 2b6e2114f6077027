/** Row <-> run: the one place where bigint, string and number meet, and where a state's number gets its name. */
import * as DateTime from "effect/DateTime"
import type { InstanceId } from "../../Instance.js"
import type { RunId, RunState, RunStatus } from "../../Run.js"
import { parse } from "../json.js"
import type { Attempted } from "../lifecycle.js"
import type { Row } from "./database.js"

/** 64-bit integers come as number (SQLite), string (PostgreSQL) or bigint (safe integers). */
export const number = (value: unknown): number => Number(value)
export const numberOrNull = (value: unknown): number | null => (value === null || value === undefined ? null : Number(value))
export const string = (value: unknown): string => String(value)
export const stringOrNull = (value: unknown): string | null => (value === null || value === undefined ? null : String(value))

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

export const claimColumns = [
  "id",
  "origin_id",
  "occurrence",
  "name",
  "unique_key",
  "job",
  "queue",
  "schedule",
  "priority",
  "run_at",
  "created_at",
  "created_by",
  "claimed_at",
  "fence",
  "claim_token",
  "cancel_at",
  "errors",
  "timeouts",
  "crashes",
  "max_errors",
  "max_timeouts",
  "max_crashes",
  "timeout_ms",
  "success_count",
  "success_limit",
  "backoff",
  "payload",
  "traceparent"
] as const

export const claimedRun = (row: Row): ClaimedRun => ({
  id: string(row.id) as RunId,
  originId: string(row.origin_id) as RunId,
  occurrence: number(row.occurrence),
  name: stringOrNull(row.name),
  uniqueKey: stringOrNull(row.unique_key),
  job: string(row.job),
  queue: string(row.queue),
  schedule: stringOrNull(row.schedule),
  priority: number(row.priority),
  runAt: number(row.run_at),
  createdAt: number(row.created_at),
  createdBy: string(row.created_by) as InstanceId,
  claimedAt: number(row.claimed_at),
  fence: number(row.fence),
  token: string(row.claim_token),
  cancelRequested: row.cancel_at !== null,
  errors: number(row.errors),
  timeouts: number(row.timeouts),
  crashes: number(row.crashes),
  maxErrors: numberOrNull(row.max_errors),
  maxTimeouts: numberOrNull(row.max_timeouts),
  maxCrashes: numberOrNull(row.max_crashes),
  timeoutMillis: numberOrNull(row.timeout_ms),
  successCount: number(row.success_count),
  successLimit: numberOrNull(row.success_limit),
  backoff: stringOrNull(row.backoff),
  payload: string(row.payload),
  traceparent: stringOrNull(row.traceparent)
})

/** Which try it is, from 1. */
export const attemptOf = (run: Pick<Attempted, "errors" | "timeouts" | "crashes">): number => run.errors + run.timeouts + run.crashes + 1

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
const moment = (value: unknown): DateTime.Utc => DateTime.unsafeMake(Number.isFinite(number(value)) ? number(value) : 0)
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
