/**
 * The errors of jobsd. Each says what was being done and what to do about it; what a driver said is kept as the `cause`.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * A payload does not fit its job's schema, is not JSON, or is larger than `payloadLimit`. Nothing was stored. The `issue` names
 * the path and what was expected, never the value.
 *
 * @example
 * import { Effect } from "effect"
 * import { JobsdError } from "jobsd"
 *
 * const program = Effect.fail(
 *   new JobsdError.PayloadError({ job: "Announce", issue: "at name: expected string" })
 * ).pipe(Effect.catchTag("PayloadError", (error) => Effect.logError(error.message)))
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category errors
 */
export class PayloadError extends Schema.TaggedError<PayloadError>("jobsd/PayloadError")("PayloadError", {
  job: Schema.String,
  issue: Schema.String
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `The payload of job "${this.job}" cannot be stored: ${this.issue}`
  }
}

/**
 * An option of `createRun` is out of its range. Nothing was stored.
 *
 * @example
 * import { JobsdError } from "jobsd"
 *
 * const error = new JobsdError.OptionError({ option: "priority", issue: "expected an integer from 0 to 9" })
 *
 * console.log(error.message)
 *
 * @since 0.1.0
 * @category errors
 */
export class OptionError extends Schema.TaggedError<OptionError>("jobsd/OptionError")("OptionError", {
  option: Schema.String,
  issue: Schema.String
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `The option "${this.option}" of createRun is not valid: ${this.issue}`
  }
}

/**
 * A schedule is not valid, or its rule threw or did not move forward.
 *
 * @example
 * import { Either } from "effect"
 * import { JobSchedule } from "jobsd"
 *
 * // the 31st of February never comes
 * const made = JobSchedule.cronEither("Never", "0 0 31 2 *")
 *
 * console.log(Either.isLeft(made))
 *
 * @since 0.1.0
 * @category errors
 */
export class ScheduleError extends Schema.TaggedError<ScheduleError>("jobsd/ScheduleError")("ScheduleError", {
  schedule: Schema.String,
  issue: Schema.String
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `The schedule "${this.schedule}" cannot be used: ${this.issue}`
  }
}

/**
 * A setting of `Jobsd.layer` is not valid. The layer is not built.
 *
 * @example
 * import { JobsdError } from "jobsd"
 *
 * const error = new JobsdError.SettingsError({ setting: "workers", issue: "expected an integer of at least 1" })
 *
 * console.log(error.message)
 *
 * @since 0.1.0
 * @category errors
 */
export class SettingsError extends Schema.TaggedError<SettingsError>("jobsd/SettingsError")("SettingsError", {
  setting: Schema.String,
  issue: Schema.String
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `The setting "${this.setting}" is not valid: ${this.issue}`
  }
}

/**
 * The database could not do what was asked: `operation` says what that was, `reason` says what to make of it, and `cause` is
 * what the driver said.
 *
 * - `unavailable`: it could not be reached; try again later
 * - `contention`: it rolled back because of a deadlock or a lock held for too long; try again
 * - `ambiguous`: the connection was lost while the answer was on its way; the write may or may not have happened
 * - `missingTables`: the tables are not there; run `Jobsd.migrate` or leave `autoMigrate` on
 * - `rejected`: it refused the statement; trying again will not help
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, JobsdError, type Run } from "jobsd"
 *
 * const status = (id: Run.RunId) =>
 *   Jobsd.getRunState(id).pipe(
 *     Effect.map((state) => state.status),
 *     Effect.catchTag("StorageError", (error: JobsdError.StorageError) => Effect.succeed(`unknown: ${error.reason}`))
 *   )
 *
 * console.log(status)
 *
 * @since 0.1.0
 * @category errors
 */
export class StorageError extends Schema.TaggedError<StorageError>("jobsd/StorageError")("StorageError", {
  operation: Schema.String,
  reason: Schema.Literal("unavailable", "contention", "ambiguous", "missingTables", "rejected"),
  cause: Schema.optional(Schema.Defect)
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `jobsd could not ${this.operation}: ${storageAdvice[this.reason]}`
  }
}

const storageAdvice = {
  unavailable: "the database could not be reached",
  contention: "the database rolled it back because of a deadlock or a lock; try again",
  ambiguous: "the connection was lost before the answer came; it may or may not have happened",
  missingTables: "its tables are not there; run Jobsd.migrate, or leave autoMigrate on",
  rejected: "the database refused the statement (see the cause)"
}

/**
 * The transaction that `createRun` takes part in cannot go on, because of a deadlock or a conflict: roll back and run the whole
 * transaction again.
 *
 * @example
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Mail = Job.make("Mail")
 *
 * const program = Effect.gen(function* () {
 *   const sql = yield* SqlClient.SqlClient
 *   const order = Jobsd.createRun(Mail)
 *   return yield* sql.withTransaction(order).pipe(
 *     Effect.retry({ times: 3, while: (error) => error._tag === "RetryTransaction" })
 *   )
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category errors
 */
export class RetryTransaction extends Schema.TaggedError<RetryTransaction>("jobsd/RetryTransaction")("RetryTransaction", {
  operation: Schema.String,
  cause: Schema.optional(Schema.Defect)
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `jobsd could not ${this.operation} in this transaction: roll back and run the transaction again`
  }
}

/**
 * There is no run of this id: it was never created, its transaction was rolled back, or retention has deleted it.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, type Run } from "jobsd"
 *
 * const exists = (id: Run.RunId) =>
 *   Jobsd.getRunState(id).pipe(
 *     Effect.as(true),
 *     Effect.catchTag("RunNotFound", () => Effect.succeed(false))
 *   )
 *
 * console.log(exists)
 *
 * @since 0.1.0
 * @category errors
 */
export class RunNotFound extends Schema.TaggedError<RunNotFound>("jobsd/RunNotFound")("RunNotFound", {
  id: Schema.String
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `There is no run ${this.id}: it was never created, its transaction was rolled back, or retention has deleted it`
  }
}

/**
 * The database's tables are of another version than this code works with. Nothing was changed.
 *
 * @example
 * import { JobsdError } from "jobsd"
 *
 * const error = new JobsdError.SchemaVersionError({ found: 9, supported: 1 })
 *
 * console.log(error.message)
 *
 * @since 0.1.0
 * @category errors
 */
export class SchemaVersionError extends Schema.TaggedError<SchemaVersionError>("jobsd/SchemaVersionError")("SchemaVersionError", {
  found: Schema.Number,
  supported: Schema.Number
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return this.found > this.supported
      ? `The tables have version ${this.found}, this jobsd knows up to ${this.supported}: upgrade the package`
      : `The tables have version ${this.found}, this jobsd needs ${this.supported}: run Jobsd.migrate, or leave autoMigrate on`
  }
}

/**
 * A step of the migration failed. Steps already done stay done; starting again continues with the one that failed.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const program = Jobsd.migrate().pipe(
 *   Effect.catchTag("MigrationError", (error) => Effect.logError(error.message, error.cause))
 * )
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category errors
 */
export class MigrationError extends Schema.TaggedError<MigrationError>("jobsd/MigrationError")("MigrationError", {
  version: Schema.Number,
  step: Schema.String,
  cause: Schema.optional(Schema.Defect)
}) {
  /** @since 0.1.0 */
  override get message(): string {
    return `Migration ${this.version} failed at "${this.step}"`
  }
}

/**
 * `Jobsd.instance` was asked of a client: `Jobsd.layerClient` creates and reads runs, and is no instance.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const host = Jobsd.instance.pipe(
 *   Effect.map((instance) => instance.host),
 *   Effect.catchTag("NoInstance", () => Effect.succeed("only a client"))
 * )
 *
 * console.log(host)
 *
 * @since 0.1.0
 * @category errors
 */
export class NoInstance extends Schema.TaggedError<NoInstance>("jobsd/NoInstance")("NoInstance", {}) {
  /** @since 0.1.0 */
  override get message(): string {
    return "Jobsd.layerClient is no instance: it only creates and reads runs"
  }
}
