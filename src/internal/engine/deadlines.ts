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

/** The entries of one timeout: they end in the order they began, so the queue is always sorted. */
interface Queue {
  entries: Array<Entry>
  calledOff: number
}

export const make: Effect.Effect<Deadlines> = Effect.gen(function* () {
  const clock = yield* Effect.clock
  const { loop, wake } = yield* makeWake
  const queues = new Map<number, Queue>()
  let next = Number.POSITIVE_INFINITY

  // most attempts end long before their deadline: without this, half an hour of them would stay in memory
  const compact = (queue: Queue) => {
    queue.entries = queue.entries.filter(({ act }) => act !== null)
    queue.calledOff = 0
  }

  const turn = Effect.sync(() => {
    const now = monotonicMillis(clock)
    next = Number.POSITIVE_INFINITY
    for (const [millis, queue] of queues) {
      const due: Array<Entry> = []
      for (const entry of queue.entries) {
        if (entry.act !== null && entry.at > now) break
        due.push(entry)
      }
      queue.entries.splice(0, due.length)
      if (queue.entries.length === 0) {
        queues.delete(millis)
      } else {
        next = Math.min(next, queue.entries[0]!.at)
      }
      for (const entry of due) {
        const { act } = entry
        entry.act = null
        act?.()
      }
    }
    return Math.min(Math.max(next - now, 1), 60_000)
  })

  return {
    after: (millis, act) => {
      const entry: Entry = { at: monotonicMillis(clock) + millis, act }
      let queue = queues.get(millis)
      if (queue === undefined) {
        queue = { entries: [], calledOff: 0 }
        queues.set(millis, queue)
      }
      queue.entries.push(entry)
      if (entry.at < next) {
        next = entry.at
        wake()
      }
      const mine = queue
      return () => {
        if (entry.act === null) return
        entry.act = null
        mine.calledOff++
        if (mine.calledOff > 1000 && mine.calledOff > mine.entries.length / 2) compact(mine)
      }
    },
    loop: loop(turn)
  }
})

/** Milliseconds that only go forward, from the Clock in context. */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6
