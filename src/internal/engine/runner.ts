/** One attempt: handler under its deadline -> outcome. The reason of every interruption of ours is kept beside the fiber. */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as Runtime from "effect/Runtime"
import type * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type { InstanceId } from "../../Instance.js"
import type { Job } from "../../Job.js"
import { errorText, redactedBy } from "../failureText.js"
import * as lazyScope from "../lazyScope.js"
import { budgetLeft, type Outcome } from "../lifecycle.js"
import type { Resolved } from "../settings.js"
import type { ClaimedRun } from "../storage/runRow.js"
import { annotating, metrics, processing } from "../telemetry.js"
import { type Attempt, compile, DecodeFailure, EncodeFailure, type HandledJob } from "./attempt.js"
import type { Counts } from "./counts.js"
import { type Deadline, type Deadlines, monotonicMillis } from "./deadlines.js"
import { Info } from "./info.js"
import type { Settler } from "./settler.js"
import type { Claimed, WorkerPool } from "./workerPool.js"

/** Why we interrupt an attempt. */
export type Reason = "timeout" | "cancel" | "shutdown" | "lost"

export interface Runner {
  /** starts a claimed run on a worker, which is free again when `pool.ended` is called */
  readonly start: (claimed: Claimed, pool: WorkerPool) => void
  /** gives runs back that did not start: uncounted, or cancelled if that was asked for */
  readonly giveBack: (claimed: ReadonlyArray<Claimed>) => void
  readonly interrupt: (id: string, reason: Reason) => void
  /** interrupts a run that is to be cancelled, or takes it from those that wait for a worker */
  readonly cancel: (id: string) => void
  readonly interruptAll: (reason: Reason) => void
  /** the fence under which a run is worked on here, or undefined */
  readonly fenceOf: (id: string) => number | undefined
  readonly running: () => number
  /** what is still alive, and has no outcome */
  readonly alive: () => ReadonlyArray<ClaimedRun>
  /** what has been alive since before a (monotonic) moment */
  readonly startedBefore: (moment: number) => ReadonlyArray<ClaimedRun>
}

/** An attempt that has begun. */
class Running {
  reason: Reason | null = null
  settled = false
  deadline: Deadline | null = null
  fiber: Fiber.RuntimeFiber<string | null, unknown> | null = null

  constructor(
    readonly run: ClaimedRun,
    readonly prepared: Prepared,
    readonly pool: WorkerPool,
    /** monotonic */
    readonly since: number,
    /** by the database's clock */
    readonly startedAt: number
  ) {}
}

/** A job, and all that its runs have in common. */
interface Prepared {
  readonly handled: HandledJob
  readonly attempt: Attempt
  readonly annotations: ReturnType<typeof annotating>
  readonly spans: ReturnType<typeof processing> | null
  /** those that a fork does not set anyway: it looks through all there are */
  readonly fiberRefs: FiberRefs.FiberRefs
  readonly scheduler: Scheduler.Scheduler
}

const setByFork: ReadonlyArray<FiberRef.FiberRef<any>> = [FiberRef.currentContext, FiberRef.currentScheduler, FiberRef.currentRuntimeFlags]

const succeeded: Outcome = { _tag: "Succeeded", result: null, late: false }

/** A run whose earlier attempt is still here is given back for so long. */
const stillHereMillis = 5000

/** How long finalizers may take before an interrupted attempt is settled without them. */
const finalizerMillis = 5000

export const make = (options: {
  readonly instanceId: InstanceId
  readonly jobs: ReadonlyMap<string, HandledJob>
  readonly settings: Resolved
  readonly settler: Settler
  readonly pools: () => ReadonlyArray<WorkerPool>
  readonly deadlines: Deadlines
  readonly counts: Counts
  readonly clock: Clock.Clock
  readonly warn: (message: string, run: ClaimedRun) => void
}): Runner => {
  const { clock, counts, deadlines, instanceId, jobs, settings, settler } = options
  const running = new Map<string, Running>()
  const prepared = new Map<string, Prepared>()
  for (const [name, handled] of jobs) {
    prepared.set(name, {
      handled,
      attempt: compile(handled, settings.payloadLimit),
      annotations: annotating(name, handled.runtime),
      spans: handled.tracer === null ? null : processing(name, handled.runtime, handled.tracer),
      fiberRefs: setByFork.reduce((refs, ref) => FiberRefs.delete(refs, ref), handled.runtime.fiberRefs),
      scheduler: FiberRefs.getOrDefault(handled.runtime.fiberRefs, FiberRef.currentScheduler)
    })
  }

  const runInfo = (run: ClaimedRun, startedAt: number) => (payload: unknown) => new Info(run, payload, startedAt, instanceId)
  const redacted = redactedBy(settings.redact)

  // errors are user code: whatever they do when they are looked at, the attempt ends, and its worker is free
  const failureOutcome = (cause: Cause.Cause<unknown>, job: Job.Any): Outcome => {
    try {
      return failureOf(cause, job)
    } catch {
      return { _tag: "Errored", error: "What it failed with cannot be told", retry: true }
    }
  }
  const failureOf = (cause: Cause.Cause<unknown>, job: Job.Any): Outcome => {
    const failure = Cause.failureOption(cause)
    if (failure._tag === "Some" && failure.value instanceof DecodeFailure) {
      return { _tag: "Errored", error: redacted(`The payload cannot be decoded: ${failure.value.issue}`), retry: true }
    }
    if (failure._tag === "Some" && failure.value instanceof EncodeFailure) {
      return { _tag: "Errored", error: redacted(`The result cannot be stored: ${failure.value.issue}`), retry: false }
    }
    return { _tag: "Errored", error: redacted(errorText(cause, job.errorSchema)), retry: true }
  }

  const outcomeOf = (exit: Exit.Exit<string | null, unknown>, { prepared, reason, run }: Running, took: number): Outcome | null => {
    if (Exit.isSuccess(exit)) {
      const late = run.timeoutMillis !== null && took > run.timeoutMillis
      return exit.value === null && !late ? succeeded : { _tag: "Succeeded", result: exit.value, late }
    }
    if (reason === null || !Cause.isInterrupted(exit.cause)) return failureOutcome(exit.cause, prepared.handled.job)
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

  const giveBack: Runner["giveBack"] = (claimed) => {
    for (const { run } of claimed) {
      settler.offer({
        run,
        outcome: run.cancelRequested ? { _tag: "Cancelled" } : { _tag: "Released" },
        startedAt: null,
        endedAt: run.claimedAt
      })
    }
  }

  const elapsed = ({ since }: Running) => monotonicMillis(clock) - since

  const settleOnce = (attempt: Running, outcome: Outcome | null, took: number) => {
    if (attempt.settled) return
    attempt.settled = true
    const { run, startedAt } = attempt
    if (outcome !== null) settler.offer({ run, outcome, startedAt, endedAt: Math.round(startedAt + took) })
  }

  const overdue = (attempt: Running) => {
    if (attempt.reason !== null) return
    interrupt(attempt, "timeout")
    attempt.deadline = deadlines.after(finalizerMillis, monotonicMillis(clock), () => {
      options.warn("a handler goes on after its timeout; it keeps its worker", attempt.run)
      settleOnce(attempt, timedOut(attempt.run), elapsed(attempt))
    })
  }

  const ended = (attempt: Running, exit: Exit.Exit<string | null, unknown>) => {
    const { pool, run } = attempt
    attempt.deadline?.callOff()
    running.delete(run.id)
    const took = elapsed(attempt)
    metrics.duration(took / 1000, run.job)
    settleOnce(attempt, outcomeOf(exit, attempt, took), took)
    pool.ended(took)
  }

  const interrupt = (attempt: Running, reason: Reason) => {
    attempt.reason ??= reason
    attempt.fiber?.unsafeInterruptAsFork(FiberId.none)
  }

  const start: Runner["start"] = ({ at, run }, pool) => {
    const since = monotonicMillis(clock)
    const startedAt = Math.round(run.claimedAt + since - at)
    const job = prepared.get(run.job)
    if (run.cancelRequested || !budgetLeft(run) || job === undefined || running.has(run.id)) {
      settler.offer({ run, outcome: unstarted(run), startedAt: null, endedAt: startedAt })
      return pool.ended(null)
    }
    counts.started()
    metrics.wait((run.claimedAt - run.runAt) / 1000, run.job)

    const attempt = new Running(run, job, pool, since, startedAt)
    running.set(run.id, attempt)
    if (run.timeoutMillis !== null) attempt.deadline = deadlines.after(run.timeoutMillis, since, () => overdue(attempt))

    const { handled } = job
    const scope = lazyScope.make()
    const span = job.spans?.start(run, clock.unsafeCurrentTimeNanos()) ?? null
    const scoped = Context.add(handled.context, Scope.Scope, scope.scope)
    const runtime = Runtime.make({
      context: span === null ? scoped : Context.add(scoped, Tracer.ParentSpan, span),
      fiberRefs: job.fiberRefs,
      runtimeFlags: handled.runtime.runtimeFlags
    })
    attempt.fiber = Runtime.runFork(runtime, job.attempt(run.payload, runInfo(run, startedAt)), {
      scheduler: job.scheduler,
      updateRefs: job.annotations(run)
    })
    // a handler can ask for its own end before there is a fiber to interrupt
    if (attempt.reason !== null) interrupt(attempt, attempt.reason)
    attempt.fiber.addObserver((exit) => {
      if (span !== null) job.spans?.end(span, clock.unsafeCurrentTimeNanos(), exit)
      const closing = scope.close(exit)
      if (closing === null) return ended(attempt, exit)
      // a finalizer that dies makes an error of a success
      Runtime.runFork(handled.runtime)(closing).addObserver((closed) =>
        ended(attempt, Exit.isFailure(exit) ? exit : Exit.zipLeft(exit, closed))
      )
    })
  }

  return {
    start,
    giveBack,
    interrupt: (id, reason) => {
      const attempt = running.get(id)
      if (attempt !== undefined) interrupt(attempt, reason)
    },
    cancel: (id) => {
      const attempt = running.get(id)
      if (attempt !== undefined) interrupt(attempt, "cancel")
      for (const pool of options.pools()) {
        giveBack(pool.withdraw(({ run }) => run.id === id).map(({ at, run }) => ({ at, run: { ...run, cancelRequested: true } })))
      }
    },
    interruptAll: (reason) => {
      for (const attempt of [...running.values()]) interrupt(attempt, reason)
    },
    fenceOf: (id) => running.get(id)?.run.fence,
    running: () => running.size,
    alive: () => [...running.values()].filter(({ settled }) => !settled).map(({ run }) => run),
    startedBefore: (moment) => [...running.values()].filter(({ since }) => since < moment).map(({ run }) => run)
  }
}

const timedOut = (run: ClaimedRun): Outcome => ({ _tag: "TimedOut", error: `It was interrupted after ${run.timeoutMillis} milliseconds` })

/** What becomes of a run that does not start. */
const unstarted = (run: ClaimedRun): Outcome =>
  run.cancelRequested
    ? { _tag: "Cancelled" }
    : budgetLeft(run)
      ? // an earlier attempt that ignores its interruption is still here: due at once, the run would come back at once
        { _tag: "Released", delayMillis: stillHereMillis }
      : exhausted(run)

const exhausted = (run: ClaimedRun): Outcome => ({
  _tag: "Exhausted",
  error: `Its process died ${run.crashes} times, and it timed out ${run.timeouts} times`
})
