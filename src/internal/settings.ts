/** The settings of an instance, checked once; and the merge of policy: instance <- job <- run, the innermost wins. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleIntervals from "effect/ScheduleIntervals"
import type { RunPolicy } from "../Job.js"
import type { Settings } from "../Jobsd.js"
import { SettingsError } from "../JobsdError.js"
import { lastMoment, priorities } from "./lifecycle.js"

/** A policy in the units of the table: `null` is "no limit". */
export interface Policy {
  readonly timeoutMillis: number | null
  readonly maxErrors: number | null
  readonly maxTimeouts: number | null
  readonly maxCrashes: number | null
}

/** The settings with their defaults, in milliseconds. */
export interface Resolved {
  /** every queue worked on here, "default" among them, and its number of workers */
  readonly queues: ReadonlyMap<string, number>
  readonly pollMillis: number
  readonly pollLimit: number
  readonly sweepMillis: number
  readonly leaseMillis: number
  readonly heartbeatMillis: number
  /** how long an unconfirmed lease is trusted, on this process's monotonic clock */
  readonly trustMillis: number
  readonly shutdownMillis: number
  readonly autoMigrate: boolean
  readonly tablePrefix: string
  readonly payloadLimit: number
  /** how long finished runs are kept; null: for ever */
  readonly retention: { readonly succeeded: number | null; readonly failed: number | null; readonly cancelled: number | null }
  readonly redact: (text: string) => string
  readonly hints: boolean
  readonly policy: RunPolicy
  readonly backoff: Schedule.Schedule<unknown, unknown>
}

/** What holds when nothing is said. The README's table is made of these. */
export const defaults = {
  workers: 10,
  pollInterval: "5 seconds",
  pollLimit: 1000,
  timeoutCheck: "10 seconds",
  leaseDuration: "30 seconds",
  shutdownTimeout: "20 seconds",
  autoMigrate: true,
  tablePrefix: "jobsd",
  payloadLimit: 1024 * 1024,
  retention: { succeeded: "3 days", failed: "30 days", cancelled: "30 days" },
  hints: true,
  timeout: "30 minutes",
  retriesOnError: 3,
  retriesOnTimeout: 3,
  retriesOnCrash: 2,
  backoff: Schedule.exponential("1 second").pipe(Schedule.union(Schedule.spaced("5 minutes")), Schedule.jittered)
} as const

/** A name as the tables can hold and compare it on every database; the issue otherwise. */
export const nameIssue = (name: string): string | null =>
  typeof name !== "string" || name.length < 1 || name.length > 128
    ? "expected 1 to 128 characters"
    : (textIssue(name) ??
      // MySQL compares "a" and "a " as equal
      (name !== name.trim() ? "expected no blanks at its ends" : null))

/** Text that every database stores as it is: no NUL, no half of a surrogate pair. */
export const textIssue = (text: string): string | null =>
  text.includes("\0") ? "expected no NUL character" : isWellFormed(text) ? null : "expected well-formed Unicode"

const isWellFormed = (text: string) => {
  try {
    encodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

export const priorityIssue = (priority: number): string | null => (priorities.includes(priority) ? null : "expected an integer from 0 to 9")

const maxInt = 2 ** 31 - 1

/** A duration in milliseconds, null for infinity, or undefined if it is neither. */
const millis = (duration: Duration.DurationInput): number | null | undefined => {
  const decoded = Duration.decodeUnknown(duration)
  if (decoded._tag === "None") return undefined
  const value = Duration.toMillis(decoded.value)
  return value === Number.POSITIVE_INFINITY ? null : Math.round(value)
}

const limit = (retries: number): number | null | undefined =>
  retries === Number.POSITIVE_INFINITY ? null : Number.isInteger(retries) && retries >= 0 && retries <= maxInt ? retries : undefined

const expectedLimit = "expected an integer of at least 0, or Infinity"

/** Merges policies, the last one winning, and puts them in the table's units. The left side names the option that is wrong. */
export const mergePolicy = (
  ...policies: ReadonlyArray<RunPolicy>
): Either.Either<Policy, { readonly option: keyof RunPolicy; readonly issue: string }> => {
  const pick = <K extends Exclude<keyof RunPolicy, "backoff">>(key: K): NonNullable<RunPolicy[K]> =>
    policies.reduce<NonNullable<RunPolicy[K]>>((found, policy) => policy[key] ?? found, defaults[key] as NonNullable<RunPolicy[K]>)
  const timeoutMillis = millis(pick("timeout"))
  if (timeoutMillis === undefined || timeoutMillis === 0 || (timeoutMillis !== null && timeoutMillis > lastMoment)) {
    return Either.left({ option: "timeout", issue: "expected a duration of at least 1 millisecond, or Infinity" })
  }
  const limits = (["retriesOnError", "retriesOnTimeout", "retriesOnCrash"] as const).map((key) => [key, limit(pick(key))] as const)
  const wrong = limits.find(([_, value]) => value === undefined)
  return wrong === undefined
    ? Either.right({
        timeoutMillis,
        maxErrors: limits[0]![1]!,
        maxTimeouts: limits[1]![1]!,
        maxCrashes: limits[2]![1]!
      })
    : Either.left({ option: wrong[0], issue: expectedLimit })
}

/** How many delays of a backoff are replayed and stored at most; the last one repeats. */
export const backoffSteps = 32
const maxDelay = 24 * 60 * 60 * 1000

/** The first delays of a backoff, and whether it ends after them. */
export interface Backoff {
  readonly delays: ReadonlyArray<number>
  readonly ends: boolean
}

/**
 * The delays of a backoff, at most `steps`, found by replaying it without input and without waiting; and whether it ends there.
 * Random is seeded, so that every instance finds the same delays for a run.
 */
export const replay = (backoff: Schedule.Schedule<unknown, unknown>, steps: number, seed: string): Effect.Effect<Backoff> =>
  Effect.gen(function* () {
    const delays: Array<number> = []
    let state: unknown = backoff.initial
    let now = 0
    for (let step = 0; step < Math.min(steps, backoffSteps); step++) {
      const [next, , decision] = yield* backoff.step(now, undefined, state)
      if (ScheduleDecision.isDone(decision)) {
        return { delays, ends: true }
      }
      state = next
      const delay = Math.round(Math.min(Math.max(ScheduleIntervals.start(decision.intervals) - now, 0), maxDelay))
      delays.push(delay)
      now += delay
    }
    return { delays, ends: false }
  }).pipe(Effect.withRandom(Random.make(seed)))

/** A backoff as createRun stored it, or null if that is not what it is. */
export const storedBackoff = (text: string): Backoff | null => {
  try {
    const { delays, ends } = JSON.parse(text)
    return Array.isArray(delays) &&
      delays.length <= backoffSteps &&
      delays.every((delay) => Number.isInteger(delay) && delay >= 0 && delay <= maxDelay)
      ? { delays, ends: ends === true }
      : null
  } catch {
    return null
  }
}

/** The delay before the attempt that follows `failures` errors and timeouts, or null when the backoff has ended before. */
export const delayAfter = ({ delays, ends }: Backoff, failures: number): number | null =>
  delays[failures - 1] ?? (ends ? null : (delays[delays.length - 1] ?? 0))

/** Checks the settings and fills in what is not said. */
export const resolve = (settings: Settings): Either.Either<Resolved, SettingsError> =>
  Either.gen(function* () {
    const fail = (setting: string, issue: string) => Either.left(new SettingsError({ setting, issue }))
    const integer = (setting: keyof Settings & keyof typeof defaults, min: number, max: number) => {
      const value = (settings[setting] ?? defaults[setting]) as number
      return Number.isInteger(value) && value >= min && value <= max
        ? Either.right(value)
        : fail(setting, `expected an integer from ${min} to ${max}`)
    }
    const duration = (setting: "pollInterval" | "timeoutCheck" | "leaseDuration" | "shutdownTimeout", min: number) => {
      const value = millis(settings[setting] ?? defaults[setting])
      return typeof value === "number" && value >= min
        ? Either.right(value)
        : fail(setting, `expected a finite duration of at least ${min} milliseconds`)
    }

    const queues = new Map<string, number>([["default", yield* integer("workers", 1, 10_000)]])
    for (const [queue, workers] of Object.entries<number>(settings.queues ?? {})) {
      const issue = nameIssue(queue)
      if (issue !== null) yield* fail(`queues.${queue}`, issue)
      if (!Number.isInteger(workers) || workers < 1 || workers > 10_000) {
        yield* fail(`queues.${queue}`, "expected an integer from 1 to 10000")
      }
      if (queue === "default" && settings.workers !== undefined && settings.workers !== workers) {
        yield* fail("queues.default", "expected the same number as workers, which is the default queue's")
      }
      queues.set(queue, workers)
    }

    const tablePrefix = settings.tablePrefix ?? defaults.tablePrefix
    if (!/^[a-z_][a-z0-9_]{0,30}$/.test(tablePrefix)) {
      yield* fail("tablePrefix", "expected a lower-case letter or _, then at most 30 of a-z, 0-9 and _")
    }

    const kept = (outcome: "succeeded" | "failed" | "cancelled") => {
      const value = millis(settings.retention?.[outcome] ?? defaults.retention[outcome])
      return value === undefined ? fail(`retention.${outcome}`, "expected a duration, or Infinity") : Either.right(value)
    }

    yield* Either.mapLeft(mergePolicy(settings), ({ option, issue }) => new SettingsError({ setting: option, issue }))

    const leaseMillis = yield* duration("leaseDuration", 3000)
    return {
      queues,
      pollMillis: yield* duration("pollInterval", 10),
      pollLimit: yield* integer("pollLimit", 1, 10_000),
      sweepMillis: yield* duration("timeoutCheck", 10),
      leaseMillis,
      heartbeatMillis: leaseMillis / 5,
      trustMillis: leaseMillis * 0.6,
      shutdownMillis: yield* duration("shutdownTimeout", 0),
      autoMigrate: settings.autoMigrate ?? defaults.autoMigrate,
      tablePrefix,
      payloadLimit: yield* integer("payloadLimit", 1, 256 * 1024 * 1024),
      retention: {
        succeeded: yield* kept("succeeded"),
        failed: yield* kept("failed"),
        cancelled: yield* kept("cancelled")
      },
      redact: settings.redact ?? ((text: string) => text),
      hints: settings.hints ?? defaults.hints,
      policy: settings,
      backoff: settings.backoff ?? defaults.backoff
    }
  })
