/**
 * A run is one intended execution of a job: one row in the runs table, whatever number of attempts it takes. This module has
 * the words about runs: their ids, their states, and what a handler is told about the run it works on.
 *
 * @since 0.1.0
 */
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import type { InstanceId } from "./Instance.js"

/**
 * The id of a run, a UUID of version 7 made by whoever creates the run. It names one row; the rows that follow from a schedule
 * have ids of their own and share the first one's as their `originId`.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, Run } from "jobsd"
 *
 * // an id that came in over HTTP, say
 * const program = Effect.gen(function* () {
 *   const id = Run.RunId.make("0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10")
 *   return yield* Jobsd.getRunState(id)
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category models
 */
export const RunId: Schema.brand<typeof Schema.UUID, "jobsd/RunId"> = Schema.UUID.pipe(Schema.brand("jobsd/RunId"))

/**
 * The id of a run, a UUID of version 7.
 *
 * @example
 * import type { Run } from "jobsd"
 *
 * const link = (id: Run.RunId) => `/runs/${id}`
 *
 * console.log(link)
 *
 * @since 0.1.0
 * @category models
 */
export type RunId = typeof RunId.Type

/**
 * Where a run is in its life.
 *
 * - `ready`: waits for its moment and a worker; a delayed, scheduled or retrying run is ready with a later `runAt`
 * - `running`: claimed by an instance
 * - `succeeded`, `failed`, `cancelled`: over
 * - `parked`: set aside because no living instance knows its job or its schedule; it comes back when one does
 *
 * @example
 * import type { Run } from "jobsd"
 *
 * const isOver = (status: Run.RunStatus) => status === "succeeded" || status === "failed" || status === "cancelled"
 *
 * console.log(isOver("parked"))
 *
 * @since 0.1.0
 * @category models
 */
export type RunStatus = "ready" | "running" | "succeeded" | "failed" | "cancelled" | "parked"

/**
 * A snapshot of the latest run of a chain. Nothing in it changes by itself: ask `Jobsd.refresh` for a new one.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, type Run } from "jobsd"
 *
 * const attempts = (id: Run.RunId) =>
 *   Effect.map(Jobsd.getRunState(id), (state) => `${state.job} is ${state.status}, attempt ${state.attempt}`)
 *
 * console.log(attempts)
 *
 * @since 0.1.0
 * @category models
 */
export interface RunState {
  readonly id: RunId
  /** The first run of the chain; the run itself if nothing came before it. */
  readonly originId: RunId
  /** The unique name it was created with, as written, or null. */
  readonly name: string | null
  readonly job: string
  readonly queue: string
  readonly schedule: string | null
  readonly status: RunStatus
  /** Which try, from 1: errors + timeouts + crashes + 1; of a run that has failed, its last. */
  readonly attempt: number
  /** The place in its chain, from 0. */
  readonly occurrence: number
  /** When it is due (or was). */
  readonly runAt: DateTime.Utc
  /** When its latest attempt started, or null. While it runs, the moment it was claimed. */
  readonly startedAt: DateTime.Utc | null
  /** The instance of its latest attempt, or null. */
  readonly startedBy: InstanceId | null
  /** When it succeeded, failed or was cancelled, or null. */
  readonly completedAt: DateTime.Utc | null
  /** The error of its latest attempt as text, or null. It stays while the run waits for its next attempt. */
  readonly completedError: string | null
  /** The encoded result, if the job has a success schema and the run succeeded; else null. */
  readonly result: unknown
  /** Successes of the chain so far. */
  readonly successCount: number
  readonly retriesOnErrorCount: number
  readonly retriesOnTimeoutCount: number
  readonly crashCount: number
  readonly createdAt: DateTime.Utc
  /** The instance (or client) that created it. */
  readonly createdBy: InstanceId
}

/**
 * What a handler is told about the run it works on.
 *
 * @example
 * import { Effect, Schema } from "effect"
 * import { Job } from "jobsd"
 *
 * const Import = Job.make("Import", { payload: { file: Schema.String } })
 *
 * const ImportLive = Import.toLayer(({ file }, run) =>
 *   Effect.log(`attempt ${run.attempt} at ${file}, due since ${run.runAt}`)
 * )
 *
 * console.log(ImportLive)
 *
 * @since 0.1.0
 * @category models
 */
export interface RunInfo<Payload = unknown> {
  readonly id: RunId
  readonly originId: RunId
  readonly name: string | null
  readonly job: string
  readonly queue: string
  readonly schedule: string | null
  readonly attempt: number
  readonly occurrence: number
  readonly payload: Payload
  readonly runAt: DateTime.Utc
  /** The start of this attempt, by the database's clock. */
  readonly startedAt: DateTime.Utc
  readonly startedBy: InstanceId
  readonly successCount: number
  /** How many successes end the chain, or null. */
  readonly successLimit: number | null
  /** `Infinity`: never. */
  readonly timeout: Duration.Duration
  /** When this attempt is interrupted, or null. */
  readonly timeoutAt: DateTime.Utc | null
  readonly retriesOnErrorCount: number
  /** `Infinity`: no limit. */
  readonly retriesOnErrorLimit: number
  readonly retriesOnTimeoutCount: number
  readonly retriesOnTimeoutLimit: number
  readonly crashCount: number
  readonly retriesOnCrashLimit: number
  readonly createdAt: DateTime.Utc
  readonly createdBy: InstanceId
}
