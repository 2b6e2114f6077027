/** Outcomes -> facts -> table, in groups: whatever waits goes in one statement, at once when idle, many together under load. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schedule from "effect/Schedule"
import type { RunPolicy } from "../../Job.js"
import type { JobSchedule } from "../../JobSchedule.js"
import { ScheduleError, type StorageError } from "../../JobsdError.js"
import type { RunId } from "../../Run.js"
import { errorText, redactedBy } from "../failureText.js"
import {
  type Facts,
  isWaiting,
  nextMoment,
  type Outcome,
  type Settlement,
  State,
  settle,
  wantsRetry,
  wantsSuccessor
} from "../lifecycle.js"
import { momentOf } from "../moment.js"
import { delayAfter, type Resolved, replay, storedBackoff } from "../settings.js"
import type { ClaimedRun } from "../storage/runRow.js"
import type { Recorded, RunStore, Settled as StoredSettled } from "../storage/runStore.js"
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

interface Settled extends StoredSettled {
  readonly outcome: Outcome
}

const noFacts: Facts = { retryDelayMillis: null, nextRunAt: null }

/**
 * The most that goes in one statement. A drain has more outcomes than one writer keeps up with, and with 500 at a time the last of them
 * was written a tenth later; a second writer on another connection, or 2,000 at a time, gained nothing.
 */
const groupLimit = 1000

export const make = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly policies: ReadonlyMap<string, RunPolicy>
  readonly schedules: ReadonlyMap<string, JobSchedule>
  readonly counts: Counts
  /** called after each group: there is room again */
  readonly settled: () => void
  /** called when a run waits that did not before, or another suspect may start */
  readonly waiting: () => void
  /** called for a queue when runs of it were given back */
  readonly released: (queue: string) => void
  /** lets everything else in the process have its turn, where the driver does not */
  readonly breathe: Effect.Effect<void>
}): Effect.Effect<Settler> =>
  Effect.gen(function* () {
    const { counts, policies, schedules, settings, store } = options
    const { loop, wake } = yield* makeWake
    const redacted = redactedBy(settings.redact)
    const waiting: Array<Ended> = []
    /** the fence under which a run's outcome waits: it can be claimed again before the answer to its settlement is here */
    const unsettled = new Map<string, number>()

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
            Effect.annotateLogs(
              Effect.logError(`the backoff failed; the run is not tried again: ${redacted(errorText(cause, undefined))}`),
              {
                job: run.job,
                runId: run.id
              }
            ),
            null
          )
        )
      )

    const nextRunAt = ({ endedAt, outcome, run }: Ended): Effect.Effect<number | null> => {
      const schedule = run.schedule === null ? undefined : schedules.get(run.schedule)
      if (schedule === undefined || !wantsSuccessor(run, outcome)) return Effect.succeed(null)
      const next = nextMoment((after) => schedule.next(momentOf(after)).epochMillis, run.firstDueAt ?? run.runAt, endedAt)
      return typeof next === "number"
        ? Effect.succeed(next)
        : Effect.as(
            Effect.logError("a chain of runs has ended", new ScheduleError({ schedule: schedule.name, issue: redacted(next) })).pipe(
              Effect.annotateLogs({ job: run.job, runId: run.id })
            ),
            null
          )
    }

    const settled = ({ outcome, run, startedAt }: Ended, facts: Facts): Settled => {
      const settlement = settle(run, outcome, facts)
      return { run, outcome, settlement, startedAt, successorId: settlement.successor === null ? null : (uuidv7(Date.now()) as RunId) }
    }

    // nearly all outcomes ask for no facts: no Effect for those
    const decide = (ended: Ended): Settled | Effect.Effect<Settled> =>
      wantsRetry(ended.run, ended.outcome) || wantsSuccessor(ended.run, ended.outcome)
        ? Effect.gen(function* () {
            return settled(ended, { retryDelayMillis: yield* retryDelay(ended), nextRunAt: yield* nextRunAt(ended) })
          })
        : settled(ended, noFacts)

    // What the database refuses must cost no other run its outcome: a group is split down to the row, which gives up its texts, its
    // successor, or both.
    const write = (group: ReadonlyArray<Settled>, refused: Set<ClaimedRun>): Effect.Effect<Recorded, StorageError> =>
      Effect.catchIf(store.settleOurs(group), isRejected, (error) =>
        group.length === 1
          ? writeLess(group[0]!, error, refused)
          : Effect.zipWith(
              write(group.slice(0, group.length / 2), refused),
              write(group.slice(group.length / 2), refused),
              (left, right) => new Set([...left, ...right])
            )
      )
    const writeLess = (settled: Settled, refusal: StorageError, refused: Set<ClaimedRun>): Effect.Effect<Recorded, StorageError> =>
      Effect.gen(function* () {
        const { run, settlement } = settled
        for (const less of lesser(settled)) {
          const written = yield* Effect.either(store.settleOurs([less]))
          if (Either.isRight(written)) {
            if (less.settlement.successor !== settlement.successor) yield* Effect.logError("a chain of runs has ended", refusal)
            return written.right
          }
          if (!isRejected(written.left)) return yield* written.left
        }
        refused.add(run)
        yield* Effect.logError("the database refuses an outcome; its run is given back", refusal)
        return new Set<ClaimedRun>()
      }).pipe(Effect.annotateLogs({ job: settled.run.job, runId: settled.run.id }))

    // A loop of its own: V8 compiles one with all that is around it, and within the generator below that took it 25 ms.
    const tally = (group: ReadonlyArray<Settled>, recorded: Recorded) => {
      const told = new Map<string, Map<string, number>>()
      const unrecorded: Array<ClaimedRun> = []
      let waits = false
      for (const { outcome, run, settlement } of group) {
        if (!recorded.has(run)) {
          unrecorded.push(run)
          continue
        }
        counts.settled(outcome, settlement)
        waits ||= isWaiting(settlement.state) || settlement.successor !== null || run.crashes > 0
        if (outcome._tag === "Released" && outcome.delayMillis === undefined) options.released(run.queue)
        const name = outcomeName(settlement, outcome)
        const ofJob = told.get(run.job) ?? new Map<string, number>()
        told.set(run.job, ofJob.set(name, (ofJob.get(name) ?? 0) + 1))
      }
      return { told, unrecorded, waits }
    }

    const record = (group: ReadonlyArray<Settled>) =>
      Effect.gen(function* () {
        const refused = new Set<ClaimedRun>()
        const { told, unrecorded, waits } = tally(group, yield* write(group, refused))
        for (const run of unrecorded) {
          if (refused.has(run)) continue
          metrics.stale(1)
          yield* Effect.logWarning("an outcome came too late and was not recorded: the run had been taken back").pipe(
            Effect.annotateLogs({ job: run.job, runId: run.id })
          )
        }
        if (waits) options.waiting()
        for (const [job, outcomes] of told) for (const [name, count] of outcomes) metrics.runs(count, job, name)
      })

    // what is being written stays here until it is acknowledged, so that a repeat is verbatim: a successor keeps its id
    let current: ReadonlyArray<Settled> | null = null
    const patience = makePatience()

    const acknowledge = () => {
      for (const { run } of current ?? []) if (unsettled.get(run.id) === run.fence) unsettled.delete(run.id)
      current = null
    }

    const next = Effect.gen(function* () {
      const group = waiting.splice(0, groupLimit)
      const settled: Array<Settled> = []
      for (const ended of group) {
        const decided = decide(ended)
        settled.push(Effect.isEffect(decided) ? yield* decided : decided)
      }
      current = settled
      return settled
    })

    const turn = Effect.gen(function* () {
      while (current !== null || waiting.length > 0) {
        yield* record(current ?? (yield* next))
        acknowledge()
        patience.reset()
        options.settled()
        yield* options.breathe
      }
      return 60_000
    }).pipe(
      Effect.sandbox,
      Effect.catchAll((cause) => Effect.zipRight(Effect.logWarning("could not record outcomes; trying again", cause), patience.pause))
    )

    return {
      offer: (ended) => {
        waiting.push(ended)
        unsettled.set(ended.run.id, ended.run.fence)
        wake()
      },
      unsettled: () => unsettled.size,
      holds: (id, fence) => unsettled.get(id) === fence,
      loop: loop(turn),
      flush: Effect.suspend(() => (unsettled.size === 0 ? Effect.void : Effect.fail("not yet" as const))).pipe(
        Effect.retry(Schedule.spaced("5 millis")),
        Effect.orDie
      )
    }
  })

const isRejected = (error: StorageError): boolean => error.reason === "rejected"

const unstorable = "what this attempt ended with could not be stored"

/** What is left of an outcome that the database refuses, from more to less. */
const lesser = (settled: Settled): ReadonlyArray<Settled> => {
  const { settlement } = settled
  const hasTexts = settlement.result !== null || settlement.error !== null
  const withoutTexts = { result: null, error: unstorable }
  const withoutSuccessor = { successor: null }
  const left = [
    ...(hasTexts ? [withoutTexts] : []),
    ...(settlement.successor === null ? [] : [withoutSuccessor]),
    ...(hasTexts && settlement.successor !== null ? [{ ...withoutTexts, ...withoutSuccessor }] : [])
  ]
  return left.map((changes) => ({ ...settled, settlement: { ...settlement, ...changes } }))
}

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
