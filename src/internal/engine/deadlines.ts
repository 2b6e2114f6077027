/**
 * What is to happen when an attempt has run for too long, in the order of the deadlines. One fiber for all attempts: a timer race
 * for each costs 75-150 us.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { make as makeWake } from "./wake.js"

export interface Deadlines {
  /** calls `act` after so many milliseconds, counted from a moment that has just been read off `monotonicMillis` */
  readonly after: (millis: number, from: number, act: () => void) => Deadline
  readonly loop: Effect.Effect<never>
}

export interface Deadline {
  readonly callOff: () => void
}

/** The deadlines of one timeout: they end in the order they began, so the queue is always sorted. */
class Queue {
  entries: Array<Entry> = []
  calledOff = 0
  lastAt = Number.NEGATIVE_INFINITY

  // most attempts end long before their deadline: without this, half an hour of them would stay in memory
  compact(): void {
    this.entries = this.entries.filter(({ act }) => act !== null)
    this.calledOff = 0
  }
}

/** The loop looks so often, also when nothing is due. */
const lookMillis = 60_000
/** So many timeouts that are in use have a queue also when it is empty. */
const keptQueues = 16

class Entry implements Deadline {
  constructor(
    readonly at: number,
    public act: (() => void) | null,
    readonly queue: Queue
  ) {}

  callOff() {
    if (this.act === null) return
    this.act = null
    const { queue } = this
    queue.calledOff++
    if (queue.calledOff > 1000 && queue.calledOff > queue.entries.length / 2) queue.compact()
  }
}

export const make: Effect.Effect<Deadlines> = Effect.gen(function* () {
  const clock = yield* Effect.clock
  const { loop, wake } = yield* makeWake
  const queues = new Map<number, Queue>()
  /** when the loop looks again: what ends later need not wake it */
  let next = Number.NEGATIVE_INFINITY

  const turn = Effect.sync(() => {
    const now = monotonicMillis(clock)
    next = now + lookMillis
    for (const [millis, queue] of queues) {
      const due: Array<Entry> = []
      for (const entry of queue.entries) {
        if (entry.act !== null && entry.at > now) break
        due.push(entry)
      }
      queue.entries.splice(0, due.length)
      const [first] = queue.entries
      if (first !== undefined) next = Math.min(next, first.at)
      // not as soon as it is empty: under load that is many times a second
      else if (queue.lastAt <= now || queues.size > keptQueues) queues.delete(millis)
      for (const entry of due) {
        const { act } = entry
        entry.act = null
        act?.()
      }
    }
    return Math.max(next - now, 1)
  })

  return {
    after: (millis, from, act) => {
      let queue = queues.get(millis)
      if (queue === undefined) {
        queue = new Queue()
        queues.set(millis, queue)
      }
      const entry = new Entry(from + millis, act, queue)
      queue.entries.push(entry)
      queue.lastAt = entry.at
      if (entry.at < next) {
        next = entry.at
        wake()
      }
      return entry
    },
    loop: loop(turn)
  }
})

/** Milliseconds that only go forward, from the Clock in context. */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6
