/**
 * The storage as a sequential machine: a reference in memory that says what each command must do to the tables, in whole hours of
 * a clock that only `advance` moves. What the database may choose (which of several due runs a claim takes) it checks and follows.
 */
import { assert } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import { type Attempted, isWaiting, type Outcome, type Settlement, State, settle, waiting } from "../../src/internal/lifecycle.js"

export type Who = "A" | "B"
export const hour = 3_600_000

/** What both instances are told about time, in hours: never whole ones, so that a few real milliseconds decide nothing. */
export const times = { lease: 1.5, timeout: 0.5, kept: 0.5, expired: 0.1 }

/** A knows the job without schedules, B knows it with one; `Unknown` is nobody's. */
export const knows = { A: { jobs: ["Job"], schedules: [] }, B: { jobs: ["Job", "Other"], schedules: ["Rule"] } } as const

/** The states in which a run is over. */
type Ended = typeof State.succeeded | typeof State.failed | typeof State.cancelled

export type Command =
  | {
      readonly do: "create"
      /** so many in one group */
      readonly count: number
      readonly job: "Job" | "Other" | "Unknown"
      readonly unique: number | null
      readonly delay: number
      readonly priority: number
      readonly scheduled: boolean
      readonly limit: number | null
      readonly max: number | null
    }
  | { readonly do: "claim"; readonly who: Who; readonly state: typeof State.ready | typeof State.suspect; readonly limit: number }
  | {
      readonly do: "settle"
      /** places in the list of all claims ever made, from the latest one: mostly live, sometimes long stale */
      readonly claims: ReadonlyArray<number>
      readonly outcome: Outcome["_tag"]
      /** whether a success has a result: those without are written by a statement of their own */
      readonly result: boolean
      readonly delay: number | null
      readonly next: number | null
    }
  | { readonly do: "heartbeat" | "expire" | "sweep" | "drain" | "stop" | "restart" | "park" | "unpark"; readonly who: Who }
  | { readonly do: "cancelWaiting" | "requestCancel" | "latest"; readonly run: number }
  | { readonly do: "release"; readonly claim: number }
  | { readonly do: "retention"; readonly state: Ended }
  | { readonly do: "nextDue"; readonly who: Who }
  | { readonly do: "advance"; readonly hours: number }
  /** somebody else's hand, or a database that came back from an older copy */
  | { readonly do: "tamper"; readonly run: number; readonly what: "fence" | "token" | "owner" }

const who = fc.constantFrom<Who>("A", "B")
const place = fc.oneof({ weight: 6, arbitrary: fc.nat(2) }, { weight: 1, arbitrary: fc.nat(20) })
const at = <A extends Command["do"]>(name: A) => fc.constant(name)

export const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: at("create"),
      count: fc.constantFrom(1, 1, 1, 2, 3),
      job: fc.constantFrom("Job" as const, "Job" as const, "Job" as const, "Job" as const, "Other" as const, "Unknown" as const),
      unique: fc.constantFrom(null, null, 0, 1, 2),
      delay: fc.constantFrom(0, 0, 0, 0, 1),
      priority: fc.nat(2),
      scheduled: fc.boolean(),
      limit: fc.constantFrom(null, 1, 2),
      max: fc.constantFrom(null, 0, 1, 2)
    })
  },
  {
    weight: 9,
    arbitrary: fc.record({
      do: at("claim"),
      who,
      state: fc.constantFrom(State.ready, State.ready, State.ready, State.suspect),
      // some claims of many, which look for the first priority before
      limit: fc.constantFrom(1, 2, 3, 1, 2, 3, 64)
    })
  },
  {
    weight: 7,
    arbitrary: fc.record({
      do: at("settle"),
      claims: fc.uniqueArray(place, { minLength: 1, maxLength: 3 }),
      outcome: fc.constantFrom<Outcome["_tag"]>("Succeeded", "Succeeded", "Errored", "TimedOut", "Exhausted", "Cancelled", "Released"),
      result: fc.boolean(),
      delay: fc.constantFrom(0, 0, 1, null),
      next: fc.constantFrom(0, 1, 2, null)
    })
  },
  { weight: 3, arbitrary: fc.record({ do: at("heartbeat"), who }) },
  { weight: 2, arbitrary: fc.record({ do: at("expire"), who }) },
  { weight: 5, arbitrary: fc.record({ do: at("sweep"), who }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("drain" as const, "stop" as const), who }) },
  { weight: 3, arbitrary: fc.record({ do: at("restart"), who }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("park" as const, "unpark" as const), who }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("cancelWaiting" as const, "requestCancel" as const), run: place }) },
  { weight: 1, arbitrary: fc.record({ do: at("latest"), run: place }) },
  { weight: 1, arbitrary: fc.record({ do: at("release"), claim: place }) },
  { weight: 1, arbitrary: fc.record({ do: at("retention"), state: fc.constantFrom(State.succeeded, State.failed, State.cancelled) }) },
  { weight: 1, arbitrary: fc.record({ do: at("nextDue"), who }) },
  { weight: 1, arbitrary: fc.record({ do: at("tamper"), run: place, what: fc.constantFrom("fence" as const, "token" as const) }) },
  { weight: 2, arbitrary: fc.record({ do: at("advance"), hours: fc.constantFrom(1, 1, 2) }) }
)

/** A row of the runs table, as far as it matters. Moments are whole hours; `owner` and `startedBy` are ids of instances. */
export interface Run extends Attempted {
  readonly id: string
  readonly origin: string
  readonly occurrence: number
  readonly job: string
  readonly unique: string | null
  readonly priority: number
  readonly state: State
  readonly dueAt: number
  readonly fence: number
  readonly owner: string | null
  readonly token: string | null
  readonly startedBy: string | null
  readonly cancel: boolean
  readonly finishedAt: number | null
  readonly claimedAt: number | null
  readonly result: string | null
  readonly error: string | null
}
export interface Instance {
  readonly who: Who
  readonly state: 0 | 1 | 2 | 3
  readonly leaseUntil: number
}
/** What an instance remembers of a claim: the row as it was then. */
export interface Claim {
  readonly run: Run
  readonly by: string
}

const cancellable = ({ state }: Run) => isWaiting(state) || state === State.parked

/** The reference. Each method is one command; it changes the model and returns what the storage must have answered. */
export class Model {
  now = 0
  private tampered = false
  readonly runs = new Map<string, Run>()
  readonly instances = new Map<string, Instance>()
  readonly attempts = new Map<string, string>()

  private put(run: Run, change: Partial<Run>) {
    const changed = { ...run, ...change }
    this.runs.set(run.id, changed)
    return changed
  }
  private living = (id: string | null) => id !== null && (this.instances.get(id)?.state ?? 3) <= 1
  private end = (run: Run, state: State) => this.put(run, { state, finishedAt: this.now, unique: null, owner: null })

  create(run: Run): string {
    const holder = [...this.runs.values()].find(({ unique }) => unique !== null && unique === run.unique)
    if (holder === undefined) this.runs.set(run.id, run)
    return holder?.id ?? run.id
  }

  register(id: string, who: Who) {
    this.instances.set(id, { who, state: 0, leaseUntil: this.now + times.lease })
  }

  knownTo = (who: Who) => (run: Run) =>
    (knows[who].jobs as ReadonlyArray<string>).includes(run.job) &&
    (run.schedule === null || (knows[who].schedules as ReadonlyArray<string>).includes(run.schedule))

  /** follows the choice of the database, if it was one that it had */
  claim(me: string, from: State, limit: number, token: string, taken: ReadonlyArray<string>): ReadonlyArray<Claim> {
    const { leaseUntil, state, who } = this.instances.get(me)!
    const due = [...this.runs.values()].filter((run) => run.state === from && run.dueAt <= this.now && this.knownTo(who)(run))
    const may = state === 0 && leaseUntil >= this.now ? Math.min(limit, due.length) : 0
    assert.lengthOf(taken, may, "claimed")
    const chosen = taken.map((id) => due.find((run) => run.id === id) ?? assert.fail(`${id} was not there to be claimed`))
    const rank = (run: Run) => run.priority * 1000 + run.dueAt
    const left = due.filter((run) => !chosen.includes(run)).map(rank)
    assert.isAtMost(Math.max(...chosen.map(rank), Number.NEGATIVE_INFINITY), Math.min(...left), "the most urgent first")
    return chosen.map((run) => ({
      by: me,
      run: this.put(run, { state: State.running, fence: run.fence + 1, owner: me, token, claimedAt: this.now })
    }))
  }

  private isOurs = ({ run }: Claim) => {
    const row = this.runs.get(run.id)
    return row !== undefined && row.fence === run.fence && row.token === run.token && row.state === State.running ? row : undefined
  }

  settle(
    me: string,
    started: boolean,
    group: ReadonlyArray<{ readonly claim: Claim; readonly settlement: Settlement; readonly successorId: string }>
  ) {
    const ours: Array<string> = []
    for (const { claim, settlement, successorId } of group) {
      const row = this.isOurs(claim)
      if (row === undefined) continue
      ours.push(row.id)
      const { delayMillis, errors, keepAttempt, result, state, successCount, successor, timeouts } = settlement
      const next = isWaiting(state) && row.cancel ? State.cancelled : state
      const settled = this.put(row, {
        state: next,
        errors,
        timeouts,
        successCount,
        result,
        owner: null,
        error: isWaiting(state) ? (settlement.error ?? row.error) : settlement.error,
        dueAt: delayMillis === null ? row.dueAt : this.now + delayMillis / hour,
        startedBy: started ? me : row.startedBy
      })
      if (!isWaiting(next)) this.end(settled, next)
      if (keepAttempt !== null) this.attempts.set(`${row.id} ${row.fence}`, keepAttempt)
      if (successor !== null && !row.cancel) {
        this.runs.set(successorId, {
          ...settled,
          id: successorId,
          occurrence: row.occurrence + 1,
          unique: row.unique,
          state: State.ready,
          dueAt: Math.round(successor.runAt / hour),
          successCount: successor.successCount,
          fence: 0,
          errors: 0,
          timeouts: 0,
          crashes: 0,
          token: null,
          startedBy: null,
          claimedAt: null,
          result: null,
          error: null
        })
      }
    }
    return ours
  }

  settledBefore = (group: ReadonlyArray<Claim>) =>
    group
      .filter(({ run }) => {
        const row = this.runs.get(run.id)
        return row !== undefined && row.fence === run.fence && row.token === run.token && row.state !== State.running
      })
      .map(({ run }) => `${run.id} ${run.fence}`)

  heartbeat(me: string) {
    const instance = this.instances.get(me)!
    if (instance.state > 1) return null
    this.instances.set(me, { ...instance, leaseUntil: this.now + times.lease })
    return [...this.runs.values()].filter((run) => run.state === State.running && run.owner === me)
  }

  expire(me: string) {
    this.instances.set(me, { ...this.instances.get(me)!, leaseUntil: this.now - times.expired })
  }

  sweep() {
    for (const [id, instance] of this.instances) {
      if (instance.state <= 1 && instance.leaseUntil < this.now) this.instances.set(id, { ...instance, state: 3 })
    }
    let rescued = 0
    const putBack = (run: Run, counter: "crashes" | "timeouts") => {
      rescued++
      this.attempts.set(`${run.id} ${run.fence}`, counter === "crashes" ? "crash" : "timeout")
      const back = { [counter]: run[counter] + 1, fence: run.fence + 1, dueAt: this.now, startedBy: run.owner, owner: null }
      const row = this.put(run, { ...back, state: waiting({ ...run, ...back }) })
      if (run.cancel) this.end(row, State.cancelled)
    }
    const running = () => [...this.runs.values()].filter(({ state }) => state === State.running)
    for (const run of running()) if (!this.living(run.owner)) putBack(run, "crashes")
    for (const run of running()) if (run.claimedAt! + times.timeout + 2 * times.lease < this.now) putBack(run, "timeouts")
    return rescued
  }

  drain(me: string) {
    const instance = this.instances.get(me)!
    if (instance.state <= 1) this.instances.set(me, { ...instance, state: 1 })
  }

  stop(me: string) {
    const instance = this.instances.get(me)!
    if (instance.state <= 1) this.instances.set(me, { ...instance, state: 2 })
  }

  cancelWaiting(id: string) {
    const run = this.runs.get(id)!
    if (cancellable(run)) this.end(run, State.cancelled)
    return cancellable(run)
  }

  requestCancel(id: string) {
    const run = this.runs.get(id)!
    if (run.state === State.running) this.put(run, { cancel: true })
    return run.state === State.running
  }

  releaseUnknown(me: string, id: string, fence: number) {
    const run = this.runs.get(id)
    if (run === undefined || run.fence !== fence || run.owner !== me || run.state !== State.running) return false
    const released = this.put(run, { state: waiting(run), fence: fence + 1, owner: null })
    if (run.cancel) this.end(released, State.cancelled)
    return true
  }

  park() {
    const living = [...this.instances.values()].filter(({ state }) => state <= 1).map(({ who }) => who)
    // nobody is there to do it
    if (living.length === 0) return 0
    const jobs = new Set<string>(living.flatMap((who) => knows[who].jobs))
    const schedules = new Set<string>(living.flatMap((who) => knows[who].schedules))
    const unknown = ({ job, schedule }: Run) => !jobs.has(job) || (schedule !== null && !schedules.has(schedule))
    const parked = [...this.runs.values()].filter((run) => run.state === State.ready && run.dueAt < this.now && unknown(run))
    for (const run of parked) this.put(run, { state: State.parked })
    return parked.length
  }

  unpark(who: Who) {
    const back = [...this.runs.values()].filter((run) => run.state === State.parked && this.knownTo(who)(run))
    for (const run of back) this.put(run, { state: State.ready })
    return back.length
  }

  deleteFinished(state: State) {
    const old = [...this.runs.values()].filter((run) => run.state === state && run.finishedAt! + times.kept < this.now)
    for (const { id } of old) {
      this.runs.delete(id)
      for (const key of this.attempts.keys()) if (key.startsWith(id)) this.attempts.delete(key)
    }
    return old.length
  }

  latestOfChain(id: string) {
    const origin = this.runs.get(id)?.origin ?? id
    return [...this.runs.values()].filter((run) => run.origin === origin).sort((a, b) => b.occurrence - a.occurrence)[0]
  }

  nextDue(who: Who, state: State) {
    const due = [...this.runs.values()].filter((run) => run.state === state && this.knownTo(who)(run)).map(({ dueAt }) => dueAt)
    return Math.min(...due) - this.now
  }

  tamper(id: string, change: Partial<Run>) {
    this.put(this.runs.get(id)!, change)
    this.tampered = true
  }

  /** what holds whatever happened */
  checkInvariants() {
    const unfinished = [...this.runs.values()].filter(({ finishedAt }) => finishedAt === null)
    const keys = unfinished.flatMap(({ unique }) => (unique === null ? [] : [unique]))
    assert.strictEqual(new Set(keys).size, keys.length, "at most one unfinished run of a key")
    const live = unfinished.map(({ origin }) => origin)
    assert.strictEqual(new Set(live).size, live.length, "at most one live run of a chain")
    for (const run of this.runs.values()) {
      const over = run.state === State.succeeded || run.state === State.failed || run.state === State.cancelled
      assert.strictEqual(run.finishedAt !== null, over)
      if (over) assert.isNull(run.unique)
      if (!this.tampered) assert.strictEqual(run.owner !== null, run.state === State.running)
    }
  }
}

/** What an attempt of a claim leads to, by the real state machine. */
export const settlementOf = (
  claim: Claim,
  { delay, next, outcome, result }: Command & { readonly do: "settle" },
  now: number
): Settlement => {
  const outcomes: { readonly [Tag in Outcome["_tag"]]: Outcome } = {
    Succeeded: { _tag: "Succeeded", result: result ? `"done"` : null, late: false },
    Errored: { _tag: "Errored", error: "no", retry: true },
    TimedOut: { _tag: "TimedOut", error: "late" },
    Exhausted: { _tag: "Exhausted", error: "spent" },
    Cancelled: { _tag: "Cancelled" },
    Released: { _tag: "Released" }
  }
  return settle(claim.run, outcomes[outcome], {
    retryDelayMillis: delay === null ? null : delay * hour,
    nextRunAt: next === null ? null : now + next * hour
  })
}
