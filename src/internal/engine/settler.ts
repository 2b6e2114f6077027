/** Outcomes -> facts -> table, in groups: whatever waits goes in one statement, at once when idle, many together under load. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { RunPolicy } from "../../Job.js"
import type { JobSchedule } from "../../JobSchedule.js"
import { ScheduleError, type StorageError } from "../../JobsdError.js"
import type { RunId } from "../../Run.js"
import { isWaiting, nextMoment, type Outcome, type Settlement, State, settle, wantsRetry, wantsSuccessor } from "../lifecycle.js"
import { delayAfter, type Resolved, replay, storedBackoff } from "../settings.js"
import type { ClaimedRun } from "../storage/runRow.js"
import type { RunStore, Settled } from "../storage/runStore.js"
import { metrics } from "../telemetry.js"
import { uuidv7 } from "../uuid.js"
import type { Counts } from "./counts.js"
import { makePatience, make as makeWake } from "./wake.js"

/** How an attempt ended, and what the table does not know of it. */
export interface Ended {
  readonly run: ClaimedRun
  readonly outcome: Outcome
  /** the true start, by the database's clock; null if the handler did not start */
  readonly startedAt: number | null
  /** the database's clock when it ended */
  readonly endedAt: number
}

export interface Settler {
  readonly offer: (ended: Ended) => void
  /** outcomes not yet acknowledged by the database */
  readonly unsettled: () => number
  /** whether the outcome of this claim of a run is among them */
  readonly holds: (id: string, fence: number) => boolean
  readonly loop: Effect.Effect<never>
  /** waits until everything offered is acknowledged */
  readonly flush: Effect.Effect<void>
}

/** The most that goes in one statement. */
const groupLimit = 500

export const make = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly policies: ReadonlyMap<string, RunPolicy>
  readonly schedules: ReadonlyMap<string, JobSchedule>
  readonly counts: Counts
  /** called after each group: a retry or a successor may be due, and there is room again */
  readonly settled: () => void
}): Effect.Effect<Settler> =>
  Effect.gen(function* () {
    const { counts, policies, schedules, settings, store } = options
    const { loop, wake } = yield* makeWake
    let waiting: Array<Ended> = []
    const unsettled = new Set<string>()

    const retryDelay = ({ outcome, run }: Ended): Effect.Effect<number | null> =>
      Effect.gen(function* () {
        const failures = run.errors + run.timeouts + 1
        if (!wantsRetry(run, outcome)) return null
        const stored = run.backoff === null ? null : storedBackoff(run.backoff)
        const backoff = policies.get(run.job)?.backoff ?? settings.backoff
        return delayAfter(stored ?? (yield* replay(backoff, failures, run.id)), failures)
      }).pipe(
        // a Schedule is user code: if it throws, this run's retries end, and nobody else's
        Effect.catchAllCause((cause) =>
          Effect.as(
            Effect.annotateLogs(Effect.logError("the backoff failed; the run is not tried again", cause), { job: run.job, runId: run.id }),
            null
          )
        )
      )

    const nextRunAt = ({ endedAt, outcome, run }: Ended): Effect.Effect<number | null> => {
      const schedule = run.schedule === null ? undefined : schedules.get(run.schedule)
      if (schedule === undefined || !wantsSuccessor(run, outcome)) return Effect.succeed(null)
      const next = nextMoment((after) => schedule.next(DateTime.unsafeMake(after)).epochMillis, run.runAt, endedAt)
      return typeof next === "number"
        ? Effect.succeed(next)
        : Effect.as(
            Effect.logError("a chain of runs has ended", new ScheduleError({ schedule: schedule.name, issue: next })).pipe(
              Effect.annotateLogs({ job: run.job, runId: run.id })
            ),
            null
          )
    }

    const decide = (ended: Ended): Effect.Effect<Settled> =>
      Effect.gen(function* () {
        const { outcome, run, startedAt } = ended
        const facts =
          outcome._tag === "Succeeded" && run.schedule === null
            ? { retryDelayMillis: null, nextRunAt: null }
            : { retryDelayMillis: yield* retryDelay(ended), nextRunAt: yield* nextRunAt(ended) }
        const settlement = settle(run, outcome, facts)
        return { run, settlement, startedAt, successorId: settlement.successor === null ? null : (uuidv7(Date.now()) as RunId) }
      })

    // Content must not block a settlement: a group that is rejected is split down to the row, and the row's texts are given up.
    const write = (group: ReadonlyArray<Settled>): Effect.Effect<ReadonlySet<string>, StorageError> =>
      Effect.catchIf(
        store.settleOurs(group),
        (error) => error.reason === "rejected" && (group.length > 1 || hasTexts(group[0]!)),
        () =>
          group.length === 1
            ? write([withoutTexts(group[0]!)])
            : Effect.zipWith(
                write(group.slice(0, group.length / 2)),
                write(group.slice(group.length / 2)),
                (left, right) => new Set([...left, ...right])
              )
      )

    const record = (group: ReadonlyArray<Settled>, outcomes: ReadonlyMap<string, Outcome>) =>
      Effect.gen(function* () {
        const ours = yield* write(group)
        const missing = group.filter(({ run }) => !ours.has(run.id))
        // an answer that was lost on its way: the write before this one did it
        const before = missing.length === 0 ? ours : yield* store.settledBefore(missing)
        for (const { run, settlement } of group) {
          if (ours.has(run.id) || before.has(run.id)) {
            counts.settled(outcomes.get(run.id)!, settlement)
            metrics.runs(1, run.job, outcomeName(settlement, outcomes.get(run.id)!))
          } else {
            metrics.stale(1)
            yield* Effect.logWarning("an outcome came too late and was not recorded: the run had been taken back").pipe(
              Effect.annotateLogs({ job: run.job, runId: run.id })
            )
          }
        }
      })

    // what is being written stays here until it is acknowledged, so that a repeat is verbatim: a successor keeps its id
    let current: { readonly settled: ReadonlyArray<Settled>; readonly outcomes: ReadonlyMap<string, Outcome> } | null = null
    const patience = makePatience()

    const acknowledge = () => {
      for (const { run } of current?.settled ?? []) unsettled.delete(keyOf(run.id, run.fence))
      current = null
    }

    const next = Effect.suspend(() => {
      const group = waiting.slice(0, groupLimit)
      waiting = waiting.slice(groupLimit)
      return Effect.map(Effect.forEach(group, decide), (settled) => {
        current = { settled, outcomes: new Map(group.map(({ outcome, run }) => [run.id as string, outcome])) }
        return current
      })
    })

    const turn = Effect.gen(function* () {
      while (current !== null || waiting.length > 0) {
        const { outcomes, settled } = current ?? (yield* next)
        yield* record(settled, outcomes)
        acknowledge()
        patience.reset()
        options.settled()
      }
      return 60_000
    }).pipe(
      Effect.sandbox,
      Effect.catchAll((cause) => {
        if (!isRejected(cause)) {
          return Effect.zipRight(Effect.logWarning("could not record outcomes; trying again", cause), patience.pause)
        }
        acknowledge()
        return Effect.as(Effect.logError("the database refuses an outcome; its run is given back", cause), 0)
      })
    )

    return {
      offer: (ended) => {
        waiting.push(ended)
        unsettled.add(keyOf(ended.run.id, ended.run.fence))
        wake()
      },
      unsettled: () => unsettled.size,
      holds: (id, fence) => unsettled.has(keyOf(id, fence)),
      loop: loop(turn),
      flush: Effect.suspend(() => (unsettled.size === 0 ? Effect.void : Effect.fail("not yet" as const))).pipe(
        Effect.retry(Schedule.spaced("5 millis")),
        Effect.orDie
      )
    }
  })

/** one claim of a run: it can be claimed again before the answer to its settlement is here */
const keyOf = (id: string, fence: number) => `${id} ${fence}`

const isRejected = (cause: { readonly _tag: string; readonly error?: unknown }): boolean =>
  cause._tag === "Fail" && (cause.error as StorageError).reason === "rejected"

const hasTexts = ({ settlement }: Settled) => settlement.result !== null || settlement.error !== unstorable

const unstorable = "what this attempt ended with could not be stored"

const withoutTexts = (settled: Settled): Settled => ({
  ...settled,
  settlement: { ...settled.settlement, result: null, error: unstorable }
})

const outcomeName = (settlement: Settlement, outcome: Outcome): string =>
  isWaiting(settlement.state)
    ? outcome._tag === "Released"
      ? "released"
      : "retried"
    : settlement.state === State.succeeded
      ? "succeeded"
      : settlement.state === State.cancelled
        ? "cancelled"
        : "failed"
