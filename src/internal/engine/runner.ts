/** One attempt: handler under its deadline -> outcome. The reason of every interruption of ours is kept beside the fiber. */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import type { InstanceId } from "../../Instance.js"
import type { Job } from "../../Job.js"
import { errorText, redactedBy } from "../failureText.js"
import { budgetLeft, type Outcome } from "../lifecycle.js"
import type { Resolved } from "../settings.js"
import type { ClaimedRun } from "../storage/runRow.js"
import { annotations, metrics, processing } from "../telemetry.js"
import { type Attempt, compile, DecodeFailure, EncodeFailure, type HandledJob } from "./attempt.js"
import type { Counts } from "./counts.js"
import { type Deadlines, monotonicMillis } from "./deadlines.js"
import { Info } from "./info.js"
import * as lazyScope from "./lazyScope.js"
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
  const attempts = new Map<string, Attempt>()
  for (const [name, handled] of jobs) attempts.set(name, compile(handled, settings.payloadLimit))

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

  const outcomeOf = (exit: Exit.Exit<string | null, unknown>, { reason, run }: Running, job: Job.Any, late: boolean): Outcome | null => {
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

  const start: Runner["start"] = ({ at, run }, pool) => {
    const before = monotonicMillis(clock)
    const startedAt = Math.round(run.claimedAt + before - at)
    const handled = jobs.get(run.job)
    if (handled === undefined || running.has(run.id) || run.cancelRequested) {
      giveBack([{ at, run }])
      return pool.ended(0)
    }
    if (!budgetLeft(run)) {
      settler.offer({ run, outcome: exhausted(run), startedAt: null, endedAt: startedAt })
      return pool.ended(0)
    }
    counts.started()
    metrics.wait((run.claimedAt - run.runAt) / 1000, run.job)

    const attempt = attempts.get(run.job)!(run.payload, runInfo(run, startedAt))
    const scope = lazyScope.make()
    const runtime = Runtime.make({
      context: Context.add(handled.context, Scope.Scope, scope.scope),
      fiberRefs: handled.runtime.fiberRefs,
      runtimeFlags: handled.runtime.runtimeFlags
    })
    const fiber = Runtime.runFork(runtime, handled.traced ? processing(run)(attempt) : attempt, { updateRefs: annotations(run) })
    const entry: Running = { run, fiber, since: before, reason: null, settled: false }
    running.set(run.id, entry)

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

    const ended = (exit: Exit.Exit<string | null, unknown>) => {
      callOff?.()
      running.delete(run.id)
      const took = monotonicMillis(clock) - before
      metrics.duration(took / 1000, run.job)
      settleOnce(outcomeOf(exit, entry, handled.job, run.timeoutMillis !== null && took > run.timeoutMillis))
      pool.ended(took)
    }
    fiber.addObserver((exit) => {
      const closing = scope.close(exit)
      if (closing === null) return ended(exit)
      // a finalizer that dies makes an error of a success
      Runtime.runFork(handled.runtime)(closing).addObserver((closed) => ended(Exit.isFailure(exit) ? exit : Exit.zipLeft(exit, closed)))
    })
  }

  const interruptEntry = (entry: Running, reason: Reason) => {
    entry.reason ??= reason
    entry.fiber.unsafeInterruptAsFork(FiberId.none)
  }

  return {
    start,
    giveBack,
    interrupt: (id, reason) => {
      const entry = running.get(id)
      if (entry !== undefined) interruptEntry(entry, reason)
    },
    cancel: (id) => {
      const entry = running.get(id)
      if (entry !== undefined) interruptEntry(entry, "cancel")
      for (const pool of options.pools()) {
        giveBack(pool.withdraw(({ run }) => run.id === id).map(({ at, run }) => ({ at, run: { ...run, cancelRequested: true } })))
      }
    },
    interruptAll: (reason) => {
      for (const entry of [...running.values()]) interruptEntry(entry, reason)
    },
    fenceOf: (id) => running.get(id)?.run.fence,
    running: () => running.size,
    alive: () => [...running.values()].map(({ run }) => run),
    startedBefore: (moment) => [...running.values()].filter(({ since }) => since < moment).map(({ run }) => run)
  }
}

const timedOut = (run: ClaimedRun): Outcome => ({ _tag: "TimedOut", error: `It was interrupted after ${run.timeoutMillis} milliseconds` })

const exhausted = (run: ClaimedRun): Outcome => ({
  _tag: "Exhausted",
  error: `Its process died ${run.crashes} times, and it timed out ${run.timeouts} times`
})
