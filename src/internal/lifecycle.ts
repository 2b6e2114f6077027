/**
 * THE state machine: what happens next to a run. Plain data in, plain data out: no SQL, no clock, no Effect. Everything that
 * user code or the clock decides comes in as a fact.
 */

/**
 * The states of a run as the table stores them. A suspect is ready too, but was found in a process that died: an instance takes
 * one at a time, so that a run that kills its process takes no innocents with it twice.
 */
export const State = { ready: 0, running: 1, succeeded: 2, failed: 3, cancelled: 4, parked: 5, suspect: 6 } as const
export type State = (typeof State)[keyof typeof State]

/** The priorities a run can have, in the order in which they are claimed. */
export const priorities: ReadonlyArray<number> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

/** What a run is while it waits for a worker. */
export const waiting = ({ crashes }: Pick<Attempted, "crashes">): State => (crashes > 0 ? State.suspect : State.ready)
export const isWaiting = (state: State): boolean => state === State.ready || state === State.suspect

/** What the state machine must know of a run whose attempt has ended. `null` limits: no limit. */
export interface Attempted {
  readonly schedule: string | null
  readonly errors: number
  readonly timeouts: number
  readonly crashes: number
  readonly maxErrors: number | null
  readonly maxTimeouts: number | null
  readonly maxCrashes: number | null
  readonly successCount: number
  readonly successLimit: number | null
}

/** How an attempt ended. */
export type Outcome =
  | { readonly _tag: "Succeeded"; readonly result: string | null; readonly late: boolean }
  /** `retry: false` when trying again cannot help: the work was done, but its result cannot be stored */
  | { readonly _tag: "Errored"; readonly error: string; readonly retry: boolean }
  | { readonly _tag: "TimedOut"; readonly error: string }
  /** the budget for crashes (or timeouts seen by others) was spent before this claim: the handler did not start */
  | { readonly _tag: "Exhausted"; readonly error: string }
  | { readonly _tag: "Cancelled" }
  /** given back uncounted, to be due when it was or after a delay: the attempt did not start, or a shutdown interrupted it */
  | { readonly _tag: "Released"; readonly delayMillis?: number }

/** What user code and the clock say. */
export interface Facts {
  /** the delay before the next attempt, or null when the backoff has ended */
  readonly retryDelayMillis: number | null
  /** the schedule's next moment, or null: no schedule, or its rule failed */
  readonly nextRunAt: number | null
}

/** What to write on the row, and which row follows. */
export interface Settlement {
  readonly state: State
  /** only for one that waits: how long from now until it is due, or null to leave `run_at` alone */
  readonly delayMillis: number | null
  readonly errors: number
  readonly timeouts: number
  readonly successCount: number
  readonly result: string | null
  readonly error: string | null
  readonly late: boolean
  /** whether an attempt was made and is not the row's last word, so it goes to the attempts table */
  readonly keepAttempt: "error" | "timeout" | null
  readonly successor: { readonly runAt: number; readonly successCount: number } | null
}

/** The last moment that a Date can say, in the year 275760. */
export const lastMoment = 8.64e15

/** What the tables' integers can count to; nothing comes near it, unless somebody has written it there. */
export const largestCount = 2 ** 31 - 1
const count = (before: number, another: boolean) => Math.min(before + (another ? 1 : 0), largestCount)

const within = (count: number, limit: number | null) => limit === null || count <= limit

/** Whether a claimed run may start: its crashes, and the timeouts others saw, must be within their budgets. */
export const budgetLeft = (run: Attempted): boolean => within(run.crashes, run.maxCrashes) && within(run.timeouts, run.maxTimeouts)

/** Whether an outcome leads to another attempt, if the backoff goes on. The settler asks for the delay only then. */
export const wantsRetry = (run: Attempted, outcome: Outcome): boolean =>
  outcome._tag === "Errored"
    ? outcome.retry && within(run.errors + 1, run.maxErrors)
    : outcome._tag === "TimedOut" && within(run.timeouts + 1, run.maxTimeouts)

/** Whether the end of this run is followed by another run of its chain. The settler asks the schedule only then. */
const chainGoesOn = (run: Attempted, successCount: number): boolean =>
  run.schedule !== null && (run.successLimit === null || successCount < run.successLimit)

/** What an outcome leads to. */
export const settle = (run: Attempted, outcome: Outcome, facts: Facts): Settlement => {
  const after: { -readonly [K in keyof Settlement]: Settlement[K] } = {
    state: waiting(run),
    delayMillis: null,
    errors: run.errors,
    timeouts: run.timeouts,
    successCount: run.successCount,
    result: null,
    error: null,
    late: false,
    keepAttempt: null,
    successor: null
  }
  const follow = (successCount: number) =>
    chainGoesOn(run, successCount) && facts.nextRunAt !== null ? { runAt: facts.nextRunAt, successCount } : null

  switch (outcome._tag) {
    case "Released":
      after.delayMillis = outcome.delayMillis ?? null
      break
    case "Cancelled":
      after.state = State.cancelled
      break
    case "Succeeded":
      after.state = State.succeeded
      after.successCount = count(run.successCount, true)
      after.result = outcome.result
      after.late = outcome.late
      after.successor = follow(after.successCount)
      break
    case "Errored":
    case "TimedOut":
    case "Exhausted":
      after.errors = count(run.errors, outcome._tag === "Errored")
      after.timeouts = count(run.timeouts, outcome._tag === "TimedOut")
      after.error = outcome.error
      if (wantsRetry(run, outcome) && facts.retryDelayMillis !== null) {
        after.delayMillis = facts.retryDelayMillis
        after.keepAttempt = outcome._tag === "TimedOut" ? "timeout" : "error"
      } else {
        after.state = State.failed
        after.successor = follow(run.successCount)
      }
  }
  return after
}

/** Whether settling this outcome will ask for the schedule's next moment. */
export const wantsSuccessor = (run: Attempted, outcome: Outcome): boolean =>
  outcome._tag !== "Released" && outcome._tag !== "Cancelled" && chainGoesOn(run, run.successCount + (outcome._tag === "Succeeded" ? 1 : 0))

/**
 * The moment of the run that follows: the rule applied to the moment its predecessor was due, so that nothing drifts; if that has
 * passed already, the rule applied to now, so that missed moments never pile up. Returns a text when the rule is at fault.
 */
export const nextMoment = (rule: (after: number) => number, dueAt: number, now: number): number | string => {
  const ask = (after: number): number | string => {
    // the table has whole milliseconds, and dates end somewhere
    const next = Math.ceil(rule(after))
    if (!Number.isFinite(next) || next <= after) return "its rule did not move forward"
    return next > lastMoment ? "its rule went beyond the year 275760" : next
  }
  try {
    const next = ask(dueAt)
    return typeof next === "string" || next > now ? next : ask(now)
  } catch (cause) {
    return `its rule threw: ${cause instanceof Error ? cause.message : String(cause)}`
  }
}
