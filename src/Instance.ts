/**
 * An instance is one living `Jobsd.layer`: a poller, its workers and a lease in the database. It has an id that is new at
 * every start, so that a process that comes back is never mistaken for the one that died.
 *
 * @since 0.1.0
 */
import type * as DateTime from "effect/DateTime"
import * as Schema from "effect/Schema"

/**
 * The id of an instance: a UUID made afresh at every start.
 *
 * @example
 * import { Instance } from "jobsd"
 *
 * const id = Instance.InstanceId.make("0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10")
 *
 * console.log(id)
 *
 * @since 0.1.0
 * @category models
 */
export const InstanceId: Schema.brand<typeof Schema.UUID, "jobsd/InstanceId"> = Schema.UUID.pipe(Schema.brand("jobsd/InstanceId"))

/**
 * The id of an instance: a UUID made afresh at every start.
 *
 * @example
 * import type { Instance } from "jobsd"
 *
 * const describe = (id: Instance.InstanceId) => `instance ${id}`
 *
 * console.log(describe)
 *
 * @since 0.1.0
 * @category models
 */
export type InstanceId = typeof InstanceId.Type

/**
 * What an instance has done since it started. Counts rise when the outcome is recorded in the database, not when a handler
 * returns: an outcome that came too late is counted nowhere.
 *
 * @example
 * import type { Instance } from "jobsd"
 *
 * const failures = (counts: Instance.InstanceCounts) => counts.errors + counts.timedOut
 *
 * console.log(failures)
 *
 * @since 0.1.0
 * @category models
 */
export interface InstanceCounts {
  /** Attempts started. */
  readonly started: number
  /** Runs that succeeded. */
  readonly succeeded: number
  /** Attempts that ended in an error. */
  readonly errors: number
  /** Attempts that were interrupted because their time was up. */
  readonly timedOut: number
  /** Runs that ended cancelled. */
  readonly cancelled: number
  /** Runs given another moment: retries, and the successors of scheduled runs. */
  readonly rescheduled: number
  /** Runs given back uncounted, on shutdown for instance. */
  readonly released: number
  /** Runs of dead instances, and overdue ones, that this one put back. */
  readonly rescued: number
}

/**
 * One instance as the instances table has it.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const program = Effect.gen(function* () {
 *   const instance = yield* Jobsd.instance
 *   return `${instance.id} has started ${instance.counts.started} attempts`
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category models
 */
export interface Instance {
  readonly id: InstanceId
  /** The name of the machine, for people; nothing is decided by it. */
  readonly host: string
  /** The process id, for people. */
  readonly pid: number
  readonly status: "alive" | "draining" | "stopped" | "dead"
  /** The jobs it has handlers for. */
  readonly jobs: ReadonlyArray<string>
  /** The schedules whose rules it knows. */
  readonly schedules: ReadonlyArray<string>
  /** The queues it works on, with the number of workers of each. */
  readonly queues: { readonly [queue: string]: number }
  readonly startedAt: DateTime.Utc
  /** The latest heartbeat the database has accepted. */
  readonly lastSeenAt: DateTime.Utc
  /** When it left in good order, or null. */
  readonly shutdownAt: DateTime.Utc | null
  readonly counts: InstanceCounts
}
