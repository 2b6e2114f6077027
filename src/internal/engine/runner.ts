/** One attempt: decode -> handler under its deadline -> outcome. The reason of every interruption of ours is kept beside the fiber. */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import type { InstanceId } from "../../Instance.js"
import type { Job } from "../../Job.js"
import type { RunInfo } from "../../Run.js"
import { describeParseError, errorText } from "../failureText.js"
import { budgetLeft, type Outcome } from "../lifecycle.js"
import type { Resolved } from "../settings.js"
import { attemptOf, type ClaimedRun } from "../storage/runRow.js"
import { metrics, processing } from "../telemetry.js"
import type { Counts } from "./counts.js"
import { type Deadlines, monotonicMillis } from "./deadlines.js"
import type { Settler } from "./settler.js"
import type { WorkerPool } from "./workerPool.js"

/** Why we interrupt an attempt. */
export type Reason = "timeout" | "cancel" | "shutdown" | "lost"

/** A job with its handler and everything the handler uses. */
export interface HandledJob {
  readonly job: Job.Any
  readonly handle: Job.HandlerService["handle"]
  readonly runtime: Runtime.Runtime<never>
  readonly traced: boolean
}

export interface Runner {
  /** starts a claimed run on a permit that was taken for it; `age` is how long ago the database said `claimedAt` */
  readonly start: (run: ClaimedRun, pool: WorkerPool, age: number) => void
  readonly interrupt: (id: string, reason: Reason) => void
  readonly interruptAll: (reason: Reason) => void
  /** the fence under which a run is worked on here, or undefined */
  readonly fenceOf: (id: string) => number | undefined
  readonly running: () => number
  /** what is still alive, for the log */
  readonly alive: () => ReadonlyArray<ClaimedRun>
  /** what has been alive since before a (monotonic) moment */
  readonly startedBefore: (moment: number) => ReadonlyArray<ClaimedRun>
}

interface Running {
  readonly run: ClaimedRun
  readonly fiber: Fiber.RuntimeFiber<string | null, unknown>
  readonly since: number
  reason: Reason | null
  settled: boolean
}

/** How long finalizers may take before an interrupted attempt is settled without them. */
const finalizerMillis = 5000

/** The payload does not fit the job's schema, here and now: a deploy may still catch up. */
class DecodeFailure {
  constructor(readonly issue: string) {}
}

/** The work was done, but its result cannot be stored. */
class EncodeFailure {
  constructor(readonly issue: string) {}
}

export const make = (options: {
  readonly instanceId: InstanceId
  readonly jobs: ReadonlyMap<string, HandledJob>
  readonly settings: Resolved
  readonly settler: Settler
  readonly deadlines: Deadlines
  readonly counts: Counts
  readonly clock: Clock.Clock
  readonly warn: (message: string, run: ClaimedRun) => void
  /** called when a worker is free again */
  readonly freed: () => void
}): Runner => {
  const { clock, counts, deadlines, instanceId, jobs, settings, settler } = options
  const running = new Map<string, Running>()

  const attempt = ({ handle, job, traced }: HandledJob, run: ClaimedRun, startedAt: number) => {
    const work = Effect.suspend(() => {
      const decoded = Effect.mapError(
        Effect.try({
          try: () => (run.payload === "" ? undefined : JSON.parse(run.payload)),
          catch: () => new DecodeFailure("it is not JSON")
        }),
        (failure) => failure
      ).pipe(
        Effect.flatMap((encoded) =>
          Effect.mapError(Schema.decodeUnknown(job.payloadSchema)(encoded), (error) => new DecodeFailure(describeParseError(error)))
        )
      )
      return Effect.flatMap(decoded, (payload) => handle(payload, runInfo(run, payload, startedAt)))
    })
    const { successSchema } = job
    const worked =
      successSchema === undefined
        ? Effect.as(work, null)
        : Effect.flatMap(work, (result) =>
            Effect.flatMap(
              Effect.mapError(Schema.encode(successSchema)(result), (error) => new EncodeFailure(describeParseError(error))),
              (encoded) => {
                const text = JSON.stringify(encoded) ?? "null"
                return text.length > settings.payloadLimit
                  ? Effect.fail(new EncodeFailure(`it has ${text.length} characters, the limit is ${settings.payloadLimit}`))
                  : Effect.succeed(text)
              }
            )
          )
    return processing(run, traced)(Effect.scoped(worked as Effect.Effect<string | null, unknown, never>))
  }

  const runInfo = (run: ClaimedRun, payload: unknown, startedAt: number): RunInfo => ({
    id: run.id,
    originId: run.originId,
    name: run.name,
    job: run.job,
    queue: run.queue,
    schedule: run.schedule,
    attempt: attemptOf(run),
    occurrence: run.occurrence,
    payload,
    runAt: DateTime.unsafeMake(run.runAt),
    startedAt: DateTime.unsafeMake(startedAt),
    startedBy: instanceId,
    successCount: run.successCount,
    successLimit: run.successLimit,
    timeout: run.timeoutMillis === null ? Duration.infinity : Duration.millis(run.timeoutMillis),
    timeoutAt: run.timeoutMillis === null ? null : DateTime.unsafeMake(startedAt + run.timeoutMillis),
    retriesOnErrorCount: run.errors,
    retriesOnErrorLimit: run.maxErrors ?? Number.POSITIVE_INFINITY,
    retriesOnTimeoutCount: run.timeouts,
    retriesOnTimeoutLimit: run.maxTimeouts ?? Number.POSITIVE_INFINITY,
    crashCount: run.crashes,
    retriesOnCrashLimit: run.maxCrashes ?? Number.POSITIVE_INFINITY,
    createdAt: DateTime.unsafeMake(run.createdAt),
    createdBy: run.createdBy
  })

  const failureOutcome = (cause: Cause.Cause<unknown>, job: Job.Any): Outcome => {
    const failure = Cause.failureOption(cause)
    if (failure._tag === "Some" && failure.value instanceof DecodeFailure) {
      return { _tag: "Errored", error: text(`The payload cannot be decoded: ${failure.value.issue}`), retry: true }
    }
    if (failure._tag === "Some" && failure.value instanceof EncodeFailure) {
      return { _tag: "Errored", error: text(`The result cannot be stored: ${failure.value.issue}`), retry: false }
    }
    return { _tag: "Errored", error: text(errorText(cause, job.errorSchema)), retry: true }
  }

  const text = (value: string) => settings.redact(value)

  const outcomeOf = (
    exit: Exit.Exit<string | null, unknown>,
    reason: Reason | null,
    run: ClaimedRun,
    job: Job.Any,
    late: boolean
  ): Outcome | null => {
    if (Exit.isSuccess(exit)) return { _tag: "Succeeded", result: exit.value, late }
    if (reason === null || !Cause.isInterrupted(exit.cause)) return failureOutcome(exit.cause, job)
    switch (reason) {
      case "timeout":
        return timedOut(run)
      case "cancel":
        return { _tag: "Cancelled" }
      case "shutdown":
        return { _tag: "Released" }
      case "lost":
        return null
    }
  }

  const timedOut = (run: ClaimedRun): Outcome => ({ _tag: "TimedOut", error: `It was interrupted after ${run.timeoutMillis} milliseconds` })

  const unstarted = (run: ClaimedRun): Outcome | null =>
    run.cancelRequested
      ? { _tag: "Cancelled" }
      : budgetLeft(run)
        ? null
        : { _tag: "Exhausted", error: `Its process died ${run.crashes} times, and it timed out ${run.timeouts} times` }

  const start: Runner["start"] = (run, pool, age) => {
    const before = monotonicMillis(clock)
    const startedAt = Math.round(run.claimedAt + age)
    const skipped = unstarted(run)
    const handled = jobs.get(run.job)
    if (skipped !== null || handled === undefined || running.has(run.id)) {
      settler.offer({ run, outcome: skipped ?? { _tag: "Released" }, startedAt: null, endedAt: startedAt })
      pool.release()
      return
    }
    counts.started()
    metrics.wait((run.claimedAt - run.runAt) / 1000, run.job)

    const fiber = Runtime.runFork(handled.runtime)(attempt(handled, run, startedAt))
    const entry: Running = { run, fiber, since: before, reason: null, settled: false }
    running.set(run.id, entry)
    metrics.busy(pool.busy(), pool.queue)

    const settleOnce = (outcome: Outcome | null) => {
      if (entry.settled) return
      entry.settled = true
      if (outcome !== null) {
        settler.offer({ run, outcome, startedAt, endedAt: Math.round(startedAt + monotonicMillis(clock) - before) })
      }
    }

    let callOff =
      run.timeoutMillis === null
        ? undefined
        : deadlines.after(run.timeoutMillis, () => {
            if (entry.reason !== null) return
            interruptEntry(entry, "timeout")
            callOff = deadlines.after(finalizerMillis, () => {
              options.warn("a handler goes on after its timeout; it keeps its worker", run)
              settleOnce(timedOut(run))
            })
          })

    fiber.addObserver((exit) => {
      callOff?.()
      running.delete(run.id)
      const took = monotonicMillis(clock) - before
      metrics.duration(took / 1000, run.job)
      settleOnce(outcomeOf(exit, entry.reason, run, handled.job, run.timeoutMillis !== null && took > run.timeoutMillis))
      pool.release()
      metrics.busy(pool.busy(), pool.queue)
      options.freed()
    })
  }

  const interruptEntry = (entry: Running, reason: Reason) => {
    entry.reason ??= reason
    entry.fiber.unsafeInterruptAsFork(FiberId.none)
  }

  return {
    start,
    interrupt: (id, reason) => {
      const entry = running.get(id)
      if (entry !== undefined) interruptEntry(entry, reason)
    },
    interruptAll: (reason) => {
      for (const entry of running.values()) interruptEntry(entry, reason)
    },
    fenceOf: (id) => running.get(id)?.run.fence,
    running: () => running.size,
    alive: () => [...running.values()].map(({ run }) => run),
    startedBefore: (moment) => [...running.values()].filter(({ since }) => since < moment).map(({ run }) => run)
  }
}

/** The runtime of a job's handlers: what the handler was built with, and the instance's own services on top. */
export const runtimeFor = (base: Runtime.Runtime<never>, context: Context.Context<never>): Runtime.Runtime<never> =>
  Runtime.make({
    context,
    fiberRefs: base.fiberRefs,
    runtimeFlags: Runtime.defaultRuntime.runtimeFlags
  })
