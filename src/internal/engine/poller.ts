/** What is due -> workers. Sleeps until the next run is due, the poll interval has passed, or something wakes it. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { Resolved } from "../settings.js"
import type { RunStore } from "../storage/runStore.js"
import { uuidv7 } from "../uuid.js"
import { monotonicMillis } from "./deadlines.js"
import type { Runner } from "./runner.js"
import { makePatience, make as makeWake } from "./wake.js"
import type { WorkerPool } from "./workerPool.js"

export interface Poller {
  readonly wake: () => void
  readonly loop: Effect.Effect<never>
}

/** Outcomes that wait for the database before claims stop: an outage must not fill the memory. */
const unsettledBound = 5000

export const make = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly pools: ReadonlyArray<WorkerPool>
  readonly runner: Runner
  readonly clock: Clock.Clock
  /** whether this instance may claim: its lease is fresh, it is not shutting down, outcomes get through */
  readonly mayClaim: () => boolean
  readonly unsettled: () => number
}): Effect.Effect<Poller> =>
  Effect.map(makeWake, ({ loop, wake }) => {
    const { clock, pools, runner, settings, store } = options

    const claim = (pool: WorkerPool, room: number) =>
      Effect.suspend(() => {
        const before = monotonicMillis(clock)
        return Effect.map(store.claim(pool.queue, room, uuidv7(Date.now())), (runs) => {
          // the database said "now" somewhere between the question and the answer: assume the earliest
          const age = monotonicMillis(clock) - before
          for (const run of runs) {
            pool.take()
            runner.start(run, pool, age)
          }
          return runs.length
        })
      })

    const patience = makePatience()
    // the queues whose last claim was as large as asked: there may be more, so claim again without looking first
    const full = new Set<string>()

    const turn = Effect.gen(function* () {
      if (!options.mayClaim() || options.unsettled() > unsettledBound) return settings.pollMillis
      const withRoom = pools.filter((pool) => pool.free() > 0)
      if (withRoom.length === 0) return settings.pollMillis
      const waits = withRoom.every((pool) => full.has(pool.queue)) ? null : yield* store.nextDue
      let pause = settings.pollMillis
      for (const pool of withRoom) {
        const wait = waits === null ? 0 : (waits.get(pool.queue) ?? Number.POSITIVE_INFINITY)
        if (wait > 0) {
          full.delete(pool.queue)
          pause = Math.min(pause, wait)
          continue
        }
        const room = Math.min(pool.free(), settings.pollLimit)
        const claimed = yield* claim(pool, room)
        if (claimed === room) full.add(pool.queue)
        else full.delete(pool.queue)
        // something is due that could not be claimed: somebody else has it, so do not ask again at once
        if (claimed > 0 && pool.free() > 0) pause = 0
      }
      patience.reset()
      return pause
    }).pipe(
      Effect.sandbox,
      Effect.catchAll((cause) => Effect.zipRight(Effect.logWarning("could not claim runs; trying again", cause), patience.pause))
    )

    return { wake, loop: loop(turn) }
  })
