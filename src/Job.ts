/**
 * A job is a kind of work: a name, the shape of its payload, and a policy for when things go wrong. Its handler, the Effect that
 * does the work, is a separate value given as a Layer, so that a program can create runs of jobs it does not handle.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Jobsd } from "./Jobsd.js"
import type { RunInfo } from "./Run.js"

/**
 * What every job carries, to be told from everything else at runtime.
 *
 * @example
 * import { Predicate } from "effect"
 * import { Job } from "jobsd"
 *
 * const isJob = (value: unknown) => Predicate.hasProperty(value, Job.TypeId)
 *
 * console.log(isJob(Job.make("Clean"))) // true
 *
 * @since 0.1.0
 * @category type IDs
 */
export const TypeId: TypeId = "~jobsd/Job"

/**
 * The type of that.
 *
 * @example
 * import { Job } from "jobsd"
 *
 * const id: Job.TypeId = Job.TypeId
 *
 * console.log(id)
 *
 * @since 0.1.0
 * @category type IDs
 */
export type TypeId = "~jobsd/Job"

/**
 * When to stop an attempt, and how often to try again. It can be given in three places, and the innermost wins: for one run in
 * `createRun`, for a job in `Job.make`, for all in `Jobsd.layer`. Each kind of outcome spends only its own budget, so three
 * retries on error are at most four attempts that end in an error.
 *
 * @example
 * import { Schedule } from "effect"
 * import { Job } from "jobsd"
 *
 * const Sync = Job.make("Sync", {
 *   timeout: "2 minutes",
 *   retriesOnError: 5,
 *   retriesOnTimeout: 1,
 *   backoff: Schedule.exponential("10 seconds")
 * })
 *
 * console.log(Sync.policy)
 *
 * @since 0.1.0
 * @category models
 */
export interface RunPolicy {
  /** How long an attempt may take, from its own start. `Infinity`: as long as it likes. Default: 30 minutes. */
  readonly timeout?: Duration.DurationInput
  /** How many further attempts follow on an error. `Infinity`: no limit. Default: 3. */
  readonly retriesOnError?: number
  /** How many further attempts follow on a timeout. `Infinity`: no limit. Default: 3. */
  readonly retriesOnTimeout?: number
  /** How many further attempts follow when the process dies. 0: it is started at most once. Default: 2. */
  readonly retriesOnCrash?: number
  /**
   * The delay before the next attempt, by the number of errors and timeouts so far. The Schedule is replayed without input and
   * without elapsed time, at most 32 steps, each delay at most 24 hours: schedules that count (`exponential`, `spaced`,
   * `fibonacci`, `recurs`, `jittered`) suit it; those that look at their input or at the time of day do not. A Schedule that
   * ends earlier ends the retries. Default: exponential from 1 second, jittered, at most 5 minutes.
   */
  readonly backoff?: Schedule.Schedule<any, any>
}

/**
 * The Effect that does the work of a job: it gets the decoded payload and what is known about the run. Its Scope closes with
 * the attempt, interrupting it is how a run is cancelled or times out, and it may use the `Jobsd` service to create runs.
 *
 * @example
 * import { Effect, Schema } from "effect"
 * import { Job } from "jobsd"
 *
 * const Resize = Job.make("Resize", { payload: { image: Schema.String } })
 *
 * const resize: Job.HandlerFn<{ readonly image: string }> = ({ image }, run) =>
 *   Effect.log(`resizing ${image}, attempt ${run.attempt}`)
 *
 * console.log(Resize.toLayer(resize))
 *
 * @since 0.1.0
 * @category models
 */
export type HandlerFn<Payload, Success = unknown, Error = unknown, R = never> = (
  payload: Payload,
  run: RunInfo<Payload>
) => Effect.Effect<Success, Error, R>

/**
 * The context entry of a job's handler. `Jobsd.layer` requires one for each of its jobs, so a forgotten handler is a compile
 * error that names the job.
 *
 * @example
 * import { Effect, type Layer } from "effect"
 * import { Job } from "jobsd"
 *
 * const Clean = Job.make("Clean")
 *
 * const CleanLive: Layer.Layer<Job.Handler<"Clean">> = Clean.toLayer(() => Effect.void)
 *
 * console.log(CleanLive)
 *
 * @since 0.1.0
 * @category services
 */
export interface Handler<Name extends string> {
  readonly _: unique symbol
  readonly name: Name
}

/**
 * A kind of work, made by `Job.make`.
 *
 * @example
 * import { Schema } from "effect"
 * import { Job } from "jobsd"
 *
 * const Add = Job.make("Add", {
 *   payload: { a: Schema.Number, b: Schema.Number },
 *   success: Schema.Number
 * })
 *
 * const described = (job: Job.Job.Any) => job.name
 *
 * console.log(described(Add))
 *
 * @since 0.1.0
 * @category models
 */
export interface Job<Name extends string, Payload, Success = unknown, Error = unknown> {
  readonly [TypeId]: TypeId
  readonly name: Name
  readonly payloadSchema: Schema.Schema<Payload, any>
  /** The schema of the result, if it is to be stored. */
  readonly successSchema: Schema.Schema<Success, any> | undefined
  /** The schema of the handler's typed errors, if they are to be stored as data. */
  readonly errorSchema: Schema.Schema<Error, any> | undefined
  /** The queue of its runs unless `createRun` says otherwise. */
  readonly queue: string | undefined
  /** The priority of its runs unless `createRun` says otherwise. */
  readonly priority: number | undefined
  readonly policy: RunPolicy
  /** The tag of its handler. */
  readonly handler: Context.Tag<Handler<Name>, Job.HandlerService>
  /**
   * Gives the job its handler, or an Effect that builds one. What the handler needs shows in the layer's requirements, except a
   * Scope, which each attempt gets, and `Jobsd`, which the instance hands it.
   */
  readonly toLayer: <R, EX = never, RX = never>(
    handler: HandlerFn<Payload, Success, Error, R> | Effect.Effect<HandlerFn<Payload, Success, Error, R>, EX, RX>
  ) => Layer.Layer<Handler<Name>, EX, Exclude<RX, Scope.Scope> | Exclude<R, Scope.Scope | Jobsd>>
  /** Types a handler in place; returns it as it is. */
  readonly of: <R>(handler: HandlerFn<Payload, Success, Error, R>) => HandlerFn<Payload, Success, Error, R>
}

/**
 * Types that belong to `Job`.
 *
 * @since 0.1.0
 * @category utility types
 */
export declare namespace Job {
  /**
   * Any job.
   *
   * @example
   * import { Job } from "jobsd"
   *
   * const names = (jobs: ReadonlyArray<Job.Job.Any>) => jobs.map(({ name }) => name)
   *
   * console.log(names([Job.make("Clean")]))
   *
   * @since 0.1.0
   * @category utility types
   */
  export type Any = Job<any, any, any, any>

  /**
   * What `Jobsd.layer` must be given to handle a job.
   *
   * @example
   * import { Effect, type Layer } from "effect"
   * import { Job } from "jobsd"
   *
   * const Clean = Job.make("Clean")
   * const CleanLive: Layer.Layer<Job.Job.HandlerOf<typeof Clean>> = Clean.toLayer(() => Effect.void)
   *
   * console.log(CleanLive)
   *
   * @since 0.1.0
   * @category utility types
   */
  export type HandlerOf<J> = J extends Job<infer Name, any, any, any> ? Handler<Name> : never

  /**
   * The decoded payload of a job.
   *
   * @example
   * import { Schema } from "effect"
   * import { Job } from "jobsd"
   *
   * const Greet = Job.make("Greet", { payload: { name: Schema.String } })
   * const payload: Job.Job.Payload<typeof Greet> = { name: "Ada" }
   *
   * console.log(payload)
   *
   * @since 0.1.0
   * @category utility types
   */
  export type Payload<J> = J extends Job<any, infer P, any, any> ? P : never

  /**
   * A handler with everything it needs, as `toLayer` provides it.
   *
   * @example
   * import { Effect } from "effect"
   * import { Job } from "jobsd"
   *
   * const Clean = Job.make("Clean")
   * // the handler itself, for a test that calls it without a queue
   * const handler = Effect.map(Clean.handler, (service: Job.Job.HandlerService) => service.handle)
   *
   * console.log(handler)
   *
   * @since 0.1.0
   * @category services
   */
  export interface HandlerService {
    readonly handle: HandlerFn<any, unknown, unknown, Scope.Scope | Jobsd>
    readonly context: Context.Context<never>
  }
}

const Proto = {
  [TypeId]: TypeId,
  of: (handler: unknown) => handler,
  toLayer(
    this: Job<string, unknown>,
    build: HandlerFn<unknown, unknown, unknown, unknown> | Effect.Effect<HandlerFn<unknown>, unknown, unknown>
  ) {
    return Layer.scoped(
      this.handler,
      Effect.map(
        Effect.zip(Effect.context<never>(), Effect.isEffect(build) ? build : Effect.succeed(build)),
        ([context, handle]): Job.HandlerService => ({ handle: handle as Job.HandlerService["handle"], context })
      )
    )
  },
  toString(this: Job<string, unknown>) {
    return `Job(${this.name})`
  }
}

type PayloadType<P> =
  P extends Schema.Schema<infer A, any, never> ? A : P extends Schema.Struct.Fields ? Schema.Schema.Type<Schema.Struct<P>> : never

/**
 * Makes a job. The name travels in the database, so it must stay the same for as long as there are runs of it.
 *
 * `payload` is a record of fields or any Schema without requirements; a job without one has no payload. With a `success` schema
 * the handler's result is stored and shown in the run's state; with an `error` schema its typed errors are stored as data.
 *
 * @example
 * import { Effect, Schema } from "effect"
 * import { Job } from "jobsd"
 *
 * class SmtpError extends Schema.TaggedError<SmtpError>()("SmtpError", { code: Schema.Number }) {}
 *
 * const SendMail = Job.make("SendMail", {
 *   payload: { to: Schema.String, body: Schema.String },
 *   error: SmtpError,
 *   queue: "mail",
 *   retriesOnError: 10
 * })
 *
 * const SendMailLive = SendMail.toLayer(({ to }) =>
 *   to.includes("@") ? Effect.log(`sent to ${to}`) : new SmtpError({ code: 550 })
 * )
 *
 * console.log(SendMailLive)
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <
  const Name extends string,
  P extends Schema.Schema.AnyNoContext | Schema.Struct.Fields = typeof Schema.Void,
  Success = unknown,
  Error = unknown
>(
  name: Name,
  options?: RunPolicy & {
    readonly payload?: P
    readonly success?: Schema.Schema<Success, any>
    readonly error?: Schema.Schema<Error, any>
    /** A queue's name. Default: "default". */
    readonly queue?: string
    /** 0 to 9, lower first. Default: 5. */
    readonly priority?: number
  }
): Job<Name, PayloadType<P>, Success, Error> => {
  const { payload, success, error, queue, priority, ...policy } = options ?? {}
  return Object.assign(Object.create(Proto), {
    name,
    payloadSchema: payload === undefined ? Schema.Void : Schema.isSchema(payload) ? payload : Schema.Struct(payload as any),
    successSchema: success,
    errorSchema: error,
    queue,
    priority,
    policy,
    handler: Context.GenericTag<Handler<Name>, Job.HandlerService>(`jobsd/Job/Handler/${name}`)
  })
}

/**
 * Whether a value is a job.
 *
 * @example
 * import { Job } from "jobsd"
 *
 * console.log(Job.isJob(Job.make("Clean")))
 *
 * @since 0.1.0
 * @category guards
 */
export const isJob = (u: unknown): u is Job.Any => Predicate.hasProperty(u, TypeId)
