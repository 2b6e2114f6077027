/**
 * What is due -> workers. Sleeps until the next run is due, the poll interval has passed, or something wakes it. A queue that was
 * said to have something due, or whose last claim was as large as asked, is claimed from without looking, before or after: a look
 * says when what is in the table will be due, which a claim does not change, and takes longer than one.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { StorageError } from "../../JobsdError.js"
import { State } from "../lifecycle.js"
import type { Resolved } from "../settings.js"
import { type Interval, quietAfter } from "../storage/hints.js"
import type { RunStore } from "../storage/runStore.js"
import { thenAlways } from "../thenAlways.js"
import { uuidv7 } from "../uuid.js"
import { type Deadlines, monotonicMillis } from "./deadlines.js"
import type { Quarantine } from "./quarantine.js"
import type { Runner } from "./runner.js"
import { makePatience, make as makeWake } from "./wake.js"
import type { WorkerPool } from "./workerPool.js"

export interface Poller {
  /** look again: something may be due, now or soon */
  readonly wake: () => void
  /** go on with what is known to be due: there is room again */
  readonly goOn: () => void
  /** a run of this queue is due now */
  readonly due: (queue: string) => void
  /** the token of a claim whose answer is not here yet, or null */
  readonly claiming: () => string | null
  readonly loop: Effect.Effect<never>
}

/** Outcomes that wait for the database before claims stop: an outage must not fill the memory. */
const unsettledBound = 5000

/** What was claimed ahead and has not been started after so long is given back. */
const aheadMillis = 500
/** so much later than asked, a deadline shows that the process stood still */
const stallMillis = 50

/** When something is due and cannot be claimed, somebody else has it: so long until the next look. */
const takenMillis = 250

export const make = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly pools: ReadonlyArray<WorkerPool>
  readonly runner: Runner
  readonly quarantine: Quarantine
  readonly deadlines: Deadlines
  readonly clock: Clock.Clock
  /** how often to look where others are not heard */
  readonly look: Interval | null
  /** whether this instance may claim: its lease is fresh, and it is not shutting down */
  readonly mayClaim: () => boolean
  readonly unsettled: () => number
  /** lets everything else in the process have its turn, where the driver does not */
  readonly breathe: Effect.Effect<void>
}): Effect.Effect<Poller> =>
  Effect.map(makeWake, ({ loop, wake: goOn }) => {
    const { clock, deadlines, pools, quarantine, runner, settings, store } = options

    /** when there was something the last time */
    let foundAt = monotonicMillis(clock)
    let claiming: string | null = null
    const claimFrom = (...[queue, state, limit]: [string, typeof State.ready | typeof State.suspect, number]) =>
      Effect.suspend(() => {
        claiming = uuidv7(Date.now())
        return thenAlways(store.claim(queue, state, limit, claiming), () => {
          claiming = null
          return null
        })
      })

    // those behind a late one go with it: claimed again, they come in their order
    const giveBackLater = (pool: WorkerPool, isSecondTime = false) => {
      if (pool.waiting().length === 0) return
      const from = monotonicMillis(clock)
      deadlines.after(aheadMillis, from, () => {
        const now = monotonicMillis(clock)
        // told late, the whole process stood still, which says nothing about the workers: they get as much time again, once
        if (now - from > aheadMillis + stallMillis && !isSecondTime) return giveBackLater(pool, true)
        const oldest = pool.waiting()[0]
        if (oldest === undefined || oldest.at > now - aheadMillis) return
        pool.slower()
        runner.giveBack(pool.withdraw(() => true))
      })
    }

    /** claims and starts; how many, and whether there may be more */
    const claim = (
      pool: WorkerPool,
      state: typeof State.ready | typeof State.suspect,
      asked: number
    ): Effect.Effect<{ readonly count: number; readonly full: boolean }, StorageError> =>
      // a shutdown may have begun since the turn did
      !options.mayClaim()
        ? Effect.succeed({ count: 0, full: false })
        : Effect.map(claimFrom(pool.queue, state, asked), ({ full, runs }) => {
            const at = monotonicMillis(clock)
            if (runs.length > 0) foundAt = at
            const found = runs.map((run) => ({ run, at }))
            if (!options.mayClaim()) {
              runner.giveBack(found)
            } else {
              if (state === State.suspect) for (const { id } of runs) quarantine.enter(id)
              pool.submit(found, full)
              giveBackLater(pool)
            }
            return { count: runs.length, full }
          })

    /** how long to sleep when nothing is known to become due */
    const idleMillis = () => {
      const { look } = options
      if (look === null) return settings.pollMillis
      const isQuiet = monotonicMillis(clock) - foundAt > quietAfter
      return Math.min(settings.pollMillis, isQuiet ? look.quietMillis : look.millis)
    }

    const patience = makePatience()
    const likelyDue = new Set<string>(pools.map(({ queue }) => queue))
    /** whether to look, whatever the last look has said */
    let mustLook = true
    let lookAt = Number.NEGATIVE_INFINITY
    /** a suspect is due, and has found no free worker */
    let suspectWaits = false

    /** claims from a queue that likely has something due; whether there may be more */
    const drain = (pool: WorkerPool) =>
      Effect.gen(function* () {
        const asked = Math.min(pool.room(), settings.pollLimit)
        if (asked === 0) return
        likelyDue.delete(pool.queue)
        const { count, full } = yield* claim(pool, State.ready, asked)
        if (full) likelyDue.add(pool.queue)
        if (count === 0) lookAt = Math.min(lookAt, monotonicMillis(clock) + takenMillis)
      })

    /** what is due in the queues with room, taken; how long until there is more */
    const look = Effect.gen(function* () {
      mustLook = false
      suspectWaits = false
      let pause = idleMillis()
      for (const [queue, waits] of yield* store.nextDue) {
        const pool = pools.find((pool) => pool.queue === queue)!
        const asked = Math.min(pool.room(), settings.pollLimit)
        if (waits.ready > 0) pause = Math.min(pause, waits.ready)
        else if (asked === 0) likelyDue.add(queue)
        else {
          const { count, full } = yield* claim(pool, State.ready, asked)
          if (full) likelyDue.add(queue)
          else pause = Math.min(pause, count === 0 ? takenMillis : 0)
        }
        if (waits.suspect < idleMillis()) {
          const wait = Math.max(waits.suspect, quarantine.freeIn())
          if (wait > 0) pause = Math.min(pause, wait)
          else if (pool.free() === 0) suspectWaits = true
          else pause = Math.min(pause, (yield* claim(pool, State.suspect, 1)).count === 0 ? takenMillis : 0)
        }
      }
      lookAt = monotonicMillis(clock) + pause
    })

    const isLikelyDue = (pool: WorkerPool) => pool.room() > 0 && likelyDue.has(pool.queue)
    const isTimeToLook = () => mustLook || monotonicMillis(clock) >= lookAt || (suspectWaits && pools.some((pool) => pool.free() > 0))

    const turn = Effect.gen(function* () {
      if (!options.mayClaim() || options.unsettled() > unsettledBound) return idleMillis()
      for (const pool of pools) if (isLikelyDue(pool)) yield* drain(pool)
      // a look may claim, and what was claimed just now has started
      if (isTimeToLook()) yield* Effect.zipRight(options.breathe, look)
      patience.reset()
      for (const pool of pools) pool.tellBusy()
      yield* options.breathe
      return pools.some(isLikelyDue) ? 0 : Math.max(lookAt - monotonicMillis(clock), 0)
    }).pipe(
      Effect.sandbox,
      Effect.catchAll((cause) => {
        mustLook = true
        return Effect.zipRight(Effect.logWarning("could not claim runs; trying again", cause), patience.pause)
      })
    )

    return {
      goOn,
      wake: () => {
        mustLook = true
        goOn()
      },
      claiming: () => claiming,
      due: (queue) => {
        likelyDue.add(queue)
        goOn()
      },
      loop: loop(turn)
    }
  })
