/**
 * The job queue as a service. `Jobsd.layer` starts an instance that works on the runs in the database; `Jobsd.createRun` puts a
 * run there, in the caller's own transaction if there is one.
 *
 * @since 0.1.0
 */
import { hostname } from "node:os"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Runtime from "effect/Runtime"
import type { NoInfer } from "effect/Types"
import type { Instance, InstanceId } from "./Instance.js"
import { make as makeAnnouncer } from "./internal/announcer.js"
import * as client from "./internal/client.js"
import type { HandledJob } from "./internal/engine/attempt.js"
import * as engine from "./internal/engine/engine.js"
import { nameIssue, type Resolved, resolve } from "./internal/settings.js"
import { type Database, make as makeDatabase, outsideTransaction, withoutTransaction } from "./internal/storage/database.js"
import { dialectOf } from "./internal/storage/dialect.js"
import { make as makeHints, withoutHints } from "./internal/storage/hints.js"
import * as migrations from "./internal/storage/migrations.js"
import * as runStore from "./internal/storage/runStore.js"
import { receivingTracer } from "./internal/telemetry.js"
import { freshUuidv7 } from "./internal/uuid.js"
import type { Job, RunPolicy } from "./Job.js"
import type { JobSchedule } from "./JobSchedule.js"
import {
  type MigrationError,
  NoInstance,
  type OptionError,
  type PayloadError,
  type RetryTransaction,
  type RunNotFound,
  type ScheduleError,
  type SchemaVersionError,
  SettingsError,
  type StorageError
} from "./JobsdError.js"
import type { RunId, RunState } from "./Run.js"

/**
 * The service: what `Jobsd.layer` and `Jobsd.layerClient` provide, and what `createRun` and its companions ask for.
 *
 * @example
 * import { Effect } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Clean = Job.make("Clean")
 *
 * const program = Effect.gen(function* () {
 *   const jobsd = yield* Jobsd.Jobsd
 *   return yield* jobsd.createRun(Clean, undefined)
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category services
 */
export class Jobsd extends Context.Tag("jobsd/Jobsd")<Jobsd, Jobsd.Service>() {}

/**
 * Types that belong to `Jobsd`.
 *
 * @since 0.1.0
 * @category services
 */
export declare namespace Jobsd {
  /**
   * What can be asked of a job queue.
   *
   * @example
   * import type { Effect } from "effect"
   * import type { Jobsd, Run } from "jobsd"
   *
   * // for code that is handed the service instead of asking for it
   * const stopAll = (jobsd: Jobsd.Jobsd.Service, ids: ReadonlyArray<Run.RunId>): ReadonlyArray<Effect.Effect<unknown, unknown>> =>
   *   ids.map((id) => jobsd.cancel(id))
   *
   * console.log(stopAll)
   *
   * @since 0.1.0
   * @category services
   */
  export interface Service {
    /** As `Jobsd.createRun`. */
    readonly createRun: <Payload>(
      job: Job<any, Payload, any, any>,
      payload: NoInfer<Payload>,
      options?: CreateRunOptions
    ) => Effect.Effect<RunId, CreateRunError>
    /** As `Jobsd.createRuns`. */
    readonly createRuns: <Payload>(
      job: Job<any, Payload, any, any>,
      payloads: ReadonlyArray<NoInfer<Payload>>,
      options?: CreateRunsOptions
    ) => Effect.Effect<ReadonlyArray<RunId>, CreateRunError>
    /** As `Jobsd.cancel`. */
    readonly cancel: (id: RunId) => Effect.Effect<CancelResult, RunNotFound | StorageError>
    /** As `Jobsd.getRunState`. */
    readonly getRunState: (id: RunId) => Effect.Effect<RunState, RunNotFound | StorageError>
    /** As `Jobsd.instance`. */
    readonly instance: Effect.Effect<Instance, NoInstance | StorageError>
    /** As `Jobsd.hurry`. */
    readonly hurry: Effect.Effect<void>
  }

  /**
   * The options of `createRun`.
   *
   * @example
   * import { Job, Jobsd } from "jobsd"
   *
   * const urgent: Jobsd.Jobsd.CreateRunOptions = { priority: 0, delay: "10 seconds", unique: "clean" }
   *
   * console.log(Jobsd.createRun(Job.make("Clean"), undefined, urgent))
   *
   * @since 0.1.0
   * @category models
   */
  export type CreateRunOptions = RunPolicy & {
    /**
     * While an unfinished run has this key, `createRun` adds nothing and returns that run's id. Keys are global per table prefix,
     * across jobs, and compared byte by byte. A chain holds its key between its runs.
     */
    readonly unique?: string
    /** How long to wait before it is due, by the database's clock. */
    readonly delay?: Duration.DurationInput
    /** The moment it is due, by the database's clock; `delay` is added. Default: now. */
    readonly runAt?: DateTime.DateTime
    /** 0 to 9, lower first. Default: the job's, or 5. */
    readonly priority?: number
    /** Default: the job's, or "default". */
    readonly queue?: string
  } & (
      | {
          /** The rule for its moment, and for those of the runs that follow. */
          readonly schedule: JobSchedule
          /** How many successes end the chain, at least 1. Default: none do. */
          readonly limit?: number
        }
      | { readonly schedule?: never; readonly limit?: never }
    )

  /**
   * The options of `createRuns`: those of `createRun` without `unique`, for a key is one run's.
   *
   * @example
   * import { Job, Jobsd } from "jobsd"
   *
   * const tonight: Jobsd.Jobsd.CreateRunsOptions = { delay: "8 hours", timeout: "1 minute" }
   *
   * console.log(Jobsd.createRuns(Job.make("Clean"), [undefined, undefined], tonight))
   *
   * @since 0.1.0
   * @category models
   */
  export type CreateRunsOptions = CreateRunOptions & { readonly unique?: never }

  /**
   * What can go wrong in `createRun`.
   *
   * @example
   * import type { Jobsd } from "jobsd"
   *
   * const mayHelp = (error: Jobsd.Jobsd.CreateRunError) => error._tag === "StorageError" || error._tag === "RetryTransaction"
   *
   * console.log(mayHelp)
   *
   * @since 0.1.0
   * @category errors
   */
  export type CreateRunError = PayloadError | OptionError | ScheduleError | StorageError | RetryTransaction
}

/**
 * What `cancel` has come to: the run is `cancelled`, as one that was waiting is at once; it is running, and its interruption is
 * `requested`; or it was `finished` already, and stays as it is.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, type Run } from "jobsd"
 *
 * const isStopped = (id: Run.RunId) => Effect.map(Jobsd.cancel(id), (result) => result === "cancelled")
 *
 * console.log(isStopped)
 *
 * @since 0.1.0
 * @category models
 */
export type CancelResult = "cancelled" | "requested" | "finished"

/**
 * The settings of an instance. A policy given here holds for all runs whose job and `createRun` say nothing else.
 *
 * @example
 * import { Jobsd } from "jobsd"
 *
 * const settings: Jobsd.Settings = {
 *   workers: 20,
 *   queues: { mail: 2 },
 *   timeout: "5 minutes",
 *   retention: { succeeded: "1 hour", failed: "90 days" }
 * }
 *
 * console.log(Jobsd.layerClient(settings))
 *
 * @since 0.1.0
 * @category models
 */
export interface Settings extends RunPolicy {
  /** Workers of the queue "default". Default: 10. */
  readonly workers?: number
  /** More queues to work on, each with its own workers. A queue that is not listed is not worked on here. Default: none. */
  readonly queues?: { readonly [queue: string]: number }
  /** How long the poller sleeps at most. Due runs that it knows of, and those created here, wake it earlier. Default: 5 seconds. */
  readonly pollInterval?: Duration.DurationInput
  /** The most runs claimed in one turn. Default: 1000. */
  readonly pollLimit?: number
  /** How often runs of dead instances and overdue runs are looked for. Default: 10 seconds. */
  readonly timeoutCheck?: Duration.DurationInput
  /** How long after its last sign of life others may presume this instance dead. At least 3 seconds. Default: 30 seconds. */
  readonly leaseDuration?: Duration.DurationInput
  /** How long a shutdown waits for handlers before it interrupts them. Default: 20 seconds. */
  readonly shutdownTimeout?: Duration.DurationInput
  /** Whether the layer makes and upgrades the tables. Default: true. */
  readonly autoMigrate?: boolean
  /** What the tables' names begin with: `^[a-z_][a-z0-9_]{0,30}$`. Default: "jobsd". */
  readonly tablePrefix?: string
  /** The most bytes of an encoded payload or result. Default: 1 MiB. */
  readonly payloadLimit?: number
  /** How long finished runs are kept. Defaults: succeeded 3 days, failed and cancelled 30 days. `Infinity`: for ever. */
  readonly retention?: {
    readonly succeeded?: Duration.DurationInput
    readonly failed?: Duration.DurationInput
    readonly cancelled?: Duration.DurationInput
  }
  /** Applied to every error text before it is stored. Default: none. */
  readonly redact?: (text: string) => string
  /** Whether the database may wake the poller, where it can. Polling alone is enough. Default: true. */
  readonly hints?: boolean
}

type PayloadArguments<Payload> = [Payload] extends [void]
  ? [payload?: Payload, options?: Jobsd.CreateRunOptions]
  : [payload: Payload, options?: Jobsd.CreateRunOptions]

/**
 * Creates a run of a job and returns its id. Inside a transaction of the SqlClient that Jobsd was given (`sql.withTransaction`) it
 * takes part in it: the run is there when the transaction commits, and never was when it rolls back.
 *
 * Fails with `PayloadError`, `OptionError` or `ScheduleError` if what it was given is not valid; with `StorageError` if the
 * database could not do it; with `RetryTransaction` if the caller's transaction cannot go on.
 *
 * @example
 * import { Schema } from "effect"
 * import { Job, Jobsd, JobSchedule } from "jobsd"
 *
 * const Greet = Job.make("Greet", { payload: { name: Schema.String } })
 * const Hourly = JobSchedule.cron("Hourly", "@hourly")
 *
 * const now = Jobsd.createRun(Greet, { name: "Ada" })
 * const later = Jobsd.createRun(Greet, { name: "Ada" }, { delay: "10 minutes", priority: 1 })
 * const thrice = Jobsd.createRun(Greet, { name: "Ada" }, { schedule: Hourly, limit: 3, unique: "greet-ada" })
 *
 * console.log(now, later, thrice)
 *
 * @since 0.1.0
 * @category running
 */
export const createRun = <Payload>(
  job: Job<any, Payload, any, any>,
  ...[payload, options]: PayloadArguments<Payload>
): Effect.Effect<RunId, Jobsd.CreateRunError, Jobsd> => Effect.flatMap(Jobsd, (jobsd) => jobsd.createRun(job, payload as Payload, options))

/**
 * Creates a run for each payload, all or none, and returns their ids in the order of the payloads. Like `createRun` it takes part in
 * a transaction of the caller's; else it makes one of its own. A payload that cannot be stored fails the call before anything is.
 *
 * @example
 * import { Schema } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Greet = Job.make("Greet", { payload: { name: Schema.String } })
 *
 * const all = Jobsd.createRuns(Greet, [{ name: "Ada" }, { name: "Grace" }], { priority: 7 })
 *
 * console.log(all)
 *
 * @since 0.1.0
 * @category running
 */
export const createRuns = <Payload>(
  job: Job<any, Payload, any, any>,
  payloads: ReadonlyArray<NoInfer<Payload>>,
  options?: Jobsd.CreateRunsOptions
): Effect.Effect<ReadonlyArray<RunId>, Jobsd.CreateRunError, Jobsd> =>
  Effect.flatMap(Jobsd, (jobsd) => jobsd.createRuns(job, payloads, options))

/**
 * Ends a run and the chain it belongs to: nothing follows it, and its unique key is free. A waiting run is cancelled at once; a
 * running one is interrupted, at once if it runs on this instance and with the next heartbeat if it runs elsewhere. `id` may be
 * the id of any run of the chain.
 *
 * In a transaction of the client that Jobsd was given, the cancellation takes effect when it commits; a running run is then interrupted
 * with the next heartbeat, wherever it runs.
 *
 * @example
 * import { Effect } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Report = Job.make("Report")
 *
 * const program = Effect.gen(function* () {
 *   const id = yield* Jobsd.createRun(Report, undefined, { delay: "1 hour" })
 *   return yield* Jobsd.cancel(id) // "cancelled"
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category running
 */
export const cancel = (id: RunId): Effect.Effect<CancelResult, RunNotFound | StorageError, Jobsd> =>
  Effect.flatMap(Jobsd, (jobsd) => jobsd.cancel(id))

/**
 * The state of the latest run of the chain that the id belongs to, as the caller's transaction sees it, if there is one.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, type Run } from "jobsd"
 *
 * const isOver = (id: Run.RunId) => Effect.map(Jobsd.getRunState(id), (state) => state.completedAt !== null)
 *
 * console.log(isOver)
 *
 * @since 0.1.0
 * @category running
 */
export const getRunState = (id: RunId): Effect.Effect<RunState, RunNotFound | StorageError, Jobsd> =>
  Effect.flatMap(Jobsd, (jobsd) => jobsd.getRunState(id))

/**
 * A new snapshot of a run's chain; the one given does not change.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd, type Run } from "jobsd"
 *
 * const waitFor = (state: Run.RunState) =>
 *   Jobsd.refresh(state).pipe(
 *     Effect.delay("1 second"),
 *     Effect.repeat({ until: (state) => state.completedAt !== null })
 *   )
 *
 * console.log(waitFor)
 *
 * @since 0.1.0
 * @category running
 */
export const refresh = (state: RunState): Effect.Effect<RunState, RunNotFound | StorageError, Jobsd> => getRunState(state.id)

/**
 * This instance as the table has it, with its counts as of now. A `Jobsd.layerClient` is no instance and fails with `NoInstance`.
 *
 * @example
 * import { Effect } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const busy = Effect.map(Jobsd.instance, ({ counts }) => counts.started)
 *
 * console.log(busy)
 *
 * @since 0.1.0
 * @category running
 */
export const instance: Effect.Effect<Instance, NoInstance | StorageError, Jobsd> = Effect.flatMap(Jobsd, (jobsd) => jobsd.instance)

/**
 * Makes a shutdown that is under way (or comes later) wait no longer: running handlers are interrupted at once instead of after
 * `shutdownTimeout`; their finalizers run, and their runs are given back. Meant for a second signal.
 *
 * @example
 * import { Effect, Fiber } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const program = Effect.gen(function* () {
 *   const jobsd = yield* Jobsd.Jobsd
 *   const running = yield* Effect.fork(Effect.never)
 *   process.once("SIGTERM", () => {
 *     Effect.runFork(Fiber.interrupt(running))
 *     process.once("SIGTERM", () => Effect.runFork(jobsd.hurry))
 *   })
 *   yield* Fiber.join(running)
 * })
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category running
 */
export const hurry: Effect.Effect<void, never, Jobsd> = Effect.flatMap(Jobsd, (jobsd) => jobsd.hurry)

/** What `Jobsd.layer` is given. */
type LayerOptions<Jobs extends ReadonlyArray<Job.Any>> = Settings & {
  /** The jobs this instance handles; the layer requires a handler for each. */
  readonly jobs: Jobs
  /** The schedules this instance knows. */
  readonly schedules?: ReadonlyArray<JobSchedule>
}

const openDatabase = (settings: Resolved): Effect.Effect<Database, SettingsError | StorageError, SqlClient.SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const dialect = dialectOf(sql)
    if (dialect === null) {
      return yield* new SettingsError({ setting: "SqlClient", issue: "expected a client for PostgreSQL, MySQL/MariaDB or SQLite" })
    }
    return yield* makeDatabase(sql, dialect, settings.tablePrefix)
  })

const byName = <A extends { readonly name: string }>(
  setting: string,
  items: ReadonlyArray<A>
): Effect.Effect<ReadonlyMap<string, A>, SettingsError> =>
  Effect.gen(function* () {
    const found = new Map<string, A>()
    for (const item of items) {
      const issue = nameIssue(item.name)
      if (issue !== null) return yield* new SettingsError({ setting, issue: `"${item.name}": ${issue}` })
      if (found.has(item.name)) return yield* new SettingsError({ setting, issue: `"${item.name}" is there twice` })
      found.set(item.name, item)
    }
    return found
  })

const makeInstance = <const Jobs extends ReadonlyArray<Job.Any>>(options: LayerOptions<Jobs>) =>
  Effect.gen(function* () {
    const settings = yield* resolve(options)
    const jobs = yield* byName("jobs", options.jobs)
    const schedules = yield* byName("schedules", options.schedules ?? [])
    const database = yield* openDatabase(settings)
    yield* settings.autoMigrate ? migrations.migrate(database) : migrations.check(database)

    // the service wakes the instance, and the instance hands the service to its handlers: the service is there first
    let running: engine.Engine | undefined
    const clientId = freshUuidv7(Date.now()) as InstanceId
    const hints = settings.hints ? makeHints(database, () => running?.id() ?? clientId) : withoutHints
    const announcer = makeAnnouncer(hints, (hint) => running?.heard(hint))
    const local: client.Local = { id: () => running?.id() ?? clientId, announcer, cancel: (id) => running?.cancel(id) }
    const service = Jobsd.of({
      ...client.make(storeOf(database, clientId, settings), settings, local),
      instance: Effect.suspend((): Effect.Effect<Instance, NoInstance | StorageError> => running?.instance ?? new NoInstance()),
      hurry: Effect.suspend(() => running?.hurry ?? Effect.void)
    })

    const handlers = yield* Effect.context<Job.HandlerOf<Jobs[number]>>()
    const base = yield* Effect.runtime<never>()
    const tracer = yield* receivingTracer
    const handled = new Map<string, HandledJob>()
    for (const job of jobs.values()) {
      const { context: built, handle } = Context.unsafeGet(handlers as Context.Context<any>, job.handler) as Job.HandlerService
      // what the handler was built with, and the instance's own service on top
      const context = Context.add(withoutTransaction(built), Jobsd, service)
      const runtime = Runtime.make({ context, fiberRefs: base.fiberRefs, runtimeFlags: Runtime.defaultRuntime.runtimeFlags })
      handled.set(job.name, { job, handle, tracer, context, runtime })
    }
    running = yield* engine.start({ database, hints, announcer, settings, jobs: handled, schedules, host: hostname(), pid: process.pid })
    return service
  })

/** of one who claims nothing */
const storeOf = (database: Database, me: InstanceId, { leaseMillis }: Resolved) =>
  runStore.make({ database, me, known: { jobs: [], schedules: [] }, queues: [], leaseMillis })

/**
 * An instance: it makes the tables if need be, registers, and works on the runs of its jobs until the scope closes. Then it stops
 * claiming, waits for its handlers, interrupts those that take longer than `shutdownTimeout`, and writes every outcome.
 *
 * It requires a SqlClient and a handler for each of its jobs: a forgotten handler is a compile error that names the job.
 *
 * @example
 * import { SqliteClient } from "@effect/sql-sqlite-node"
 * import { Effect, Layer } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Clean = Job.make("Clean")
 *
 * const JobsdLive = Jobsd.layer({ jobs: [Clean], workers: 4 }).pipe(
 *   Layer.provide(Clean.toLayer(() => Effect.log("cleaned"))),
 *   Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
 * )
 *
 * const program = Jobsd.createRun(Clean).pipe(Effect.provide(JobsdLive))
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  options: LayerOptions<Jobs>
): Layer.Layer<
  Jobsd,
  SettingsError | SchemaVersionError | MigrationError | StorageError,
  SqlClient.SqlClient | Job.HandlerOf<Jobs[number]>
> => Layer.scoped(Jobsd, outsideTransaction(makeInstance(options)))

/**
 * Like `layer`, with settings that come from a `Config`.
 *
 * @example
 * import { Config, Effect } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Clean = Job.make("Clean")
 *
 * const JobsdLive = Jobsd.layerConfig({
 *   jobs: [Clean],
 *   workers: Config.withDefault(Config.integer("JOBSD_WORKERS"), 10),
 *   pollInterval: Config.withDefault(Config.duration("JOBSD_POLL_INTERVAL"), "5 seconds")
 * })
 *
 * console.log(JobsdLive, Clean.toLayer(() => Effect.void))
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = <const Jobs extends ReadonlyArray<Job.Any>>({
  jobs,
  schedules,
  ...settings
}: {
  readonly jobs: Jobs
  readonly schedules?: ReadonlyArray<JobSchedule>
} & { readonly [K in keyof Settings]: Settings[K] | Config.Config<Settings[K]> }): Layer.Layer<
  Jobsd,
  ConfigError | SettingsError | SchemaVersionError | MigrationError | StorageError,
  SqlClient.SqlClient | Job.HandlerOf<Jobs[number]>
> =>
  Layer.scoped(
    Jobsd,
    Effect.flatMap(configured(settings), (settings) =>
      outsideTransaction(makeInstance({ ...settings, jobs, ...(schedules === undefined ? {} : { schedules }) }))
    )
  )

const configured = (settings: { readonly [key: string]: unknown }): Effect.Effect<Settings, ConfigError> =>
  Effect.forEach(Object.entries(settings), ([key, value]) =>
    Effect.map(Config.isConfig(value) ? value : Effect.succeed(value), (value) => [key, value] as const)
  ).pipe(Effect.map((entries) => Object.fromEntries(entries) as Settings))

/**
 * A client that creates, reads and cancels runs, and works on none: no loops, no migration, no row in the instances table. Its
 * settings take the place of an instance's in the policies of the runs it creates.
 *
 * @example
 * import { PgClient } from "@effect/sql-pg"
 * import { Effect, Layer, Schema } from "effect"
 * import { Job, Jobsd } from "jobsd"
 *
 * const Mail = Job.make("Mail", { payload: { to: Schema.String } })
 *
 * const ClientLive = Jobsd.layerClient().pipe(Layer.provide(PgClient.layer({ database: "app" })))
 *
 * const program = Jobsd.createRun(Mail, { to: "ada@example.com" }).pipe(Effect.provide(ClientLive))
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClient = (
  settings: Settings = {}
): Layer.Layer<Jobsd, SettingsError | SchemaVersionError | StorageError, SqlClient.SqlClient> =>
  Layer.effect(
    Jobsd,
    outsideTransaction(
      Effect.gen(function* () {
        const resolved = yield* resolve(settings)
        const database = yield* openDatabase(resolved)
        yield* migrations.check(database)
        const id = freshUuidv7(Date.now()) as InstanceId
        const store = storeOf(database, id, resolved)
        const announcer = makeAnnouncer(resolved.hints ? makeHints(database, () => id) : withoutHints, () => {})
        const local: client.Local = { id: () => id, announcer, cancel: () => {} }
        return Jobsd.of({ ...client.make(store, resolved, local), instance: new NoInstance(), hurry: Effect.void })
      })
    )
  )

/**
 * Makes the tables, or brings them up to date: by hand, when `autoMigrate` is false. It may be run by any number of processes at
 * once, and does nothing when there is nothing to do.
 *
 * @example
 * import { PgClient } from "@effect/sql-pg"
 * import { Effect } from "effect"
 * import { Jobsd } from "jobsd"
 *
 * const program = Jobsd.migrate({ tablePrefix: "billing" }).pipe(
 *   Effect.provide(PgClient.layer({ database: "app" }))
 * )
 *
 * console.log(program)
 *
 * @since 0.1.0
 * @category running
 */
export const migrate = (
  options: { readonly tablePrefix?: string } = {}
): Effect.Effect<void, SettingsError | SchemaVersionError | MigrationError | StorageError, SqlClient.SqlClient> =>
  outsideTransaction(Effect.flatMap(Effect.flatMap(resolve(options), openDatabase), migrations.migrate))
