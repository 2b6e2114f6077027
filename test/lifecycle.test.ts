/** The state machine, as a table of every transition and as a model that plays random lives. */
import { assert, describe, it } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import {
  type Attempted,
  budgetLeft,
  type Facts,
  isWaiting,
  nextMoment,
  type Outcome,
  type Settlement,
  State,
  settle,
  wantsRetry,
  wantsSuccessor
} from "../src/internal/lifecycle.js"

const run: Attempted = {
  schedule: null,
  errors: 1,
  timeouts: 1,
  crashes: 0,
  maxErrors: 3,
  maxTimeouts: 3,
  maxCrashes: 2,
  successCount: 0,
  successLimit: null
}
const facts: Facts = { retryDelayMillis: 1000, nextRunAt: 60_000 }
const succeeded: Outcome = { _tag: "Succeeded", result: "42", late: false }
const errored: Outcome = { _tag: "Errored", error: "no", retry: true }
const hopeless: Outcome = { _tag: "Errored", error: "no", retry: false }
const timedOut: Outcome = { _tag: "TimedOut", error: "late" }
const exhausted: Outcome = { _tag: "Exhausted", error: "crashed" }
const cancelled: Outcome = { _tag: "Cancelled" }
const released: Outcome = { _tag: "Released" }

const scheduled = { ...run, schedule: "Hourly" }
const limited = { ...scheduled, successLimit: 3, successCount: 1 }
const follows = (successCount: number) => ({ successor: { runAt: 60_000, successCount } })

type Row = readonly [name: string, run: Attempted, outcome: Outcome, facts: Facts, expected: Partial<Settlement>]
const table: ReadonlyArray<Row> = [
  ["a success ends it", run, succeeded, facts, { state: State.succeeded, result: "42", successCount: 1, successor: null }],
  ["a late success is marked", run, { ...succeeded, late: true }, facts, { state: State.succeeded, late: true }],
  ["a success of a chain is followed", scheduled, succeeded, facts, { state: State.succeeded, ...follows(1) }],
  ["a success below the limit is followed", limited, succeeded, facts, { state: State.succeeded, ...follows(2) }],
  [
    "the last success ends the chain",
    { ...limited, successCount: 2 },
    succeeded,
    facts,
    { state: State.succeeded, successCount: 3, successor: null }
  ],
  ["a failing rule ends the chain", scheduled, succeeded, { ...facts, nextRunAt: null }, { state: State.succeeded, successor: null }],
  [
    "a suspect stays one until it has ended",
    { ...run, crashes: 1 },
    errored,
    facts,
    { state: State.suspect, delayMillis: 1000, errors: 2 }
  ],
  ["a suspect given back is one still", { ...run, crashes: 1 }, released, facts, { state: State.suspect, delayMillis: null }],
  [
    "an error is retried",
    run,
    errored,
    facts,
    { state: State.ready, delayMillis: 1000, errors: 2, timeouts: 1, error: "no", keepAttempt: "error" }
  ],
  ["the last retry on error is allowed", { ...run, errors: 2 }, errored, facts, { state: State.ready, errors: 3 }],
  ["an error too many fails it", { ...run, errors: 3 }, errored, facts, { state: State.failed, errors: 4, error: "no", keepAttempt: null }],
  ["errors without limit are retried", { ...run, errors: 999, maxErrors: null }, errored, facts, { state: State.ready, errors: 1000 }],
  ["an error that cannot be retried fails it", run, hopeless, facts, { state: State.failed, errors: 2 }],
  ["a backoff that ended fails it", run, errored, { ...facts, retryDelayMillis: null }, { state: State.failed, errors: 2 }],
  ["a retried error of a chain is not followed", scheduled, errored, facts, { state: State.ready, successor: null }],
  ["a failed run of a chain is followed", { ...scheduled, errors: 3 }, errored, facts, { state: State.failed, ...follows(0) }],
  ["a failure does not count towards the limit", { ...limited, errors: 3 }, errored, facts, { state: State.failed, ...follows(1) }],
  [
    "a timeout is retried from its own budget",
    { ...run, errors: 3 },
    timedOut,
    facts,
    { state: State.ready, errors: 3, timeouts: 2, keepAttempt: "timeout" }
  ],
  ["a timeout too many fails it", { ...run, timeouts: 3 }, timedOut, facts, { state: State.failed, timeouts: 4, error: "late" }],
  ["timeouts without limit are retried", { ...run, timeouts: 999, maxTimeouts: null }, timedOut, facts, { state: State.ready }],
  ["a timed out run of a chain is followed", { ...scheduled, timeouts: 3 }, timedOut, facts, { state: State.failed, ...follows(0) }],
  [
    "a spent budget for crashes fails it",
    { ...run, crashes: 3 },
    exhausted,
    facts,
    { state: State.failed, errors: 1, timeouts: 1, error: "crashed" }
  ],
  ["a crashed run of a chain is followed", { ...scheduled, crashes: 3 }, exhausted, facts, { state: State.failed, ...follows(0) }],
  ["a cancellation ends it", run, cancelled, facts, { state: State.cancelled, error: null }],
  ["a cancellation ends the chain", scheduled, cancelled, facts, { state: State.cancelled, successor: null }],
  [
    "a release counts nothing",
    scheduled,
    released,
    facts,
    { state: State.ready, delayMillis: null, errors: 1, timeouts: 1, successCount: 0, keepAttempt: null, successor: null }
  ]
]

describe("the state machine", () => {
  it.each(table)("%s", (_, run, outcome, facts, expected) => {
    assert.deepInclude(settle(run, outcome, facts), expected)
  })

  it("lets a run start while its crashes, and the timeouts that others saw, are within their budgets", () => {
    assert.isTrue(budgetLeft({ ...run, crashes: 2 }))
    assert.isFalse(budgetLeft({ ...run, crashes: 3 }))
    assert.isFalse(budgetLeft({ ...run, crashes: 1, maxCrashes: 0 }))
    assert.isTrue(budgetLeft({ ...run, crashes: 99, maxCrashes: null }))
    assert.isFalse(budgetLeft({ ...run, timeouts: 4 }))
  })
})

const limit = fc.option(fc.integer({ min: 0, max: 3 }), { nil: null })
const anyOutcome: fc.Arbitrary<Outcome> = fc.constantFrom(succeeded, errored, hopeless, timedOut, cancelled, released)
/** what a life may bring: an outcome of an attempt, or the death of the process */
const anyEvent = fc.oneof({ weight: 6, arbitrary: anyOutcome }, { weight: 1, arbitrary: fc.constant("crash" as const) })
const anyChain = fc.record({
  scheduled: fc.boolean(),
  maxErrors: limit,
  maxTimeouts: limit,
  maxCrashes: limit,
  successLimit: fc.option(fc.integer({ min: 1, max: 3 }), { nil: null }),
  events: fc.array(anyEvent, { maxLength: 60 })
})

describe("a random life", () => {
  it("spends each budget only on its own kind, and has one live run until the chain ends", () => {
    fc.assert(
      fc.property(anyChain, ({ events, scheduled, ...policy }) => {
        const fresh = (successCount: number): Attempted => ({
          ...policy,
          schedule: scheduled ? "Hourly" : null,
          successLimit: scheduled ? policy.successLimit : null,
          errors: 0,
          timeouts: 0,
          crashes: 0,
          successCount
        })
        let live: Attempted | null = fresh(0)
        let successes = 0
        const seen = { errors: 0, timeouts: 0, crashes: 0 }
        for (const event of events) {
          if (live === null) break
          if (event === "crash") {
            live = { ...live, crashes: live.crashes + 1 }
            seen.crashes++
            continue
          }
          const before: Attempted = live
          const outcome: Outcome = budgetLeft(before) ? event : exhausted
          const done = settle(before, outcome, facts)
          if (outcome._tag === "Errored") seen.errors++
          if (outcome._tag === "TimedOut") seen.timeouts++
          if (outcome._tag === "Succeeded") successes++

          // counters say exactly what happened to this run
          assert.deepStrictEqual([done.errors, done.timeouts], [seen.errors, seen.timeouts])
          if (before.maxErrors !== null) assert.isAtMost(done.errors, before.maxErrors + 1)
          if (before.maxTimeouts !== null) assert.isAtMost(done.timeouts, before.maxTimeouts + 1)
          assert.strictEqual(done.successCount, successes)
          // the facts asked for are those used
          if (isWaiting(done.state) && outcome._tag !== "Released") assert.isTrue(wantsRetry(before, outcome))
          if (done.successor !== null) assert.isTrue(wantsSuccessor(before, outcome))
          // one live run, or none
          assert.isFalse(isWaiting(done.state) && done.successor !== null)
          const over = !scheduled || outcome._tag === "Cancelled" || (policy.successLimit !== null && successes >= policy.successLimit)
          if (isWaiting(done.state)) live = { ...before, errors: done.errors, timeouts: done.timeouts }
          else if (done.successor === null) {
            assert.isTrue(over, "a chain ended although it should go on")
            live = null
          } else {
            assert.isFalse(over, "a chain went on although it was over")
            live = fresh(done.successor.successCount)
            Object.assign(seen, { errors: 0, timeouts: 0, crashes: 0 })
          }
        }
      }),
      { numRuns: 500 }
    )
  })
})

describe("the next moment", () => {
  const everyTen = (after: number) => after + 10

  it("follows from the due moment, so nothing drifts", () => {
    assert.strictEqual(nextMoment(everyTen, 100, 104), 110)
  })
  it("skips what a long handler ran over", () => {
    assert.strictEqual(nextMoment(everyTen, 100, 135), 145)
  })
  it("tells of a rule that stands still, goes back, is no number or throws", () => {
    for (const rule of [(after: number) => after, () => 5, () => Number.NaN, () => Number.POSITIVE_INFINITY]) {
      assert.strictEqual(nextMoment(rule, 100, 50), "its rule did not move forward")
    }
    const broken = () => {
      throw new Error("oops")
    }
    assert.strictEqual(nextMoment(broken, 100, 50), "its rule threw: oops")
  })
  it("is strictly later than the due moment and than now, whatever they are", () => {
    const moment = fc.integer({ min: 0, max: 1_000_000 })
    fc.assert(
      fc.property(moment, moment, fc.integer({ min: 1, max: 5000 }), (due, now, step) => {
        const next = nextMoment((after) => after + step, due, now)
        assert.isTrue(typeof next === "number" && next > due && next > now)
      })
    )
  })
})
