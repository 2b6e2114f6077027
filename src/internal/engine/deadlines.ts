/**
 * What is to happen when an attempt has run for too long, in the order of the deadlines. One fiber for all attempts: a timer race
 * for each costs 75-150 us.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { make as makeWake } from "./wake.js"

export interface Deadlines {
  /** calls `act` after so many milliseconds; the function returned calls it off */
  readonly after: (millis: number, act: () => void) => () => void
  readonly loop: Effect.Effect<never>
}

interface Entry {
  readonly at: number
  act: (() => void) | null
}

export const make: Effect.Effect<Deadlines> = Effect.gen(function* () {
  const clock = yield* Effect.clock
  const { loop, wake } = yield* makeWake
  // attempts with the same timeout end in the order they began: one queue per timeout is always sorted
  const queues = new Map<number, Array<Entry>>()
  let next = Number.POSITIVE_INFINITY

  const turn = Effect.sync(() => {
    const now = monotonicMillis(clock)
    next = Number.POSITIVE_INFINITY
    for (const [millis, queue] of queues) {
      let passed = 0
      for (const entry of queue) {
        if (entry.act !== null && entry.at > now) break
        entry.act?.()
        passed++
      }
      queue.splice(0, passed)
      if (queue.length === 0) {
        queues.delete(millis)
      } else {
        next = Math.min(next, queue[0]!.at)
      }
    }
    return Math.min(Math.max(next - now, 1), 60_000)
  })

  return {
    after: (millis, act) => {
      const entry: Entry = { at: monotonicMillis(clock) + millis, act }
      const queue = queues.get(millis)
      if (queue === undefined) {
        queues.set(millis, [entry])
      } else {
        queue.push(entry)
      }
      if (entry.at < next) {
        next = entry.at
        wake()
      }
      return () => {
        entry.act = null
      }
    },
    loop: loop(turn)
  }
})

/** Milliseconds that only go forward, from the Clock in context. */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6
