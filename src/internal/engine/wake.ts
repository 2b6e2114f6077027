/** What lets a loop sleep: a Schedule that comes from the turn itself, cut short by a wake-up from anywhere. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"

export interface Wake {
  /** wakes the loop, or lets it go on at once if it is at work; cheap, and safe to call from anywhere */
  readonly wake: () => void
  /** takes turns for ever; a turn says for how many milliseconds there is nothing to do, unless it is woken */
  readonly loop: <R>(turn: Effect.Effect<number, never, R>) => Effect.Effect<never, never, R>
}

/** the delay of a turn is the turn's own answer */
const asAnswered = Schedule.identity<number>().pipe(Schedule.addDelay((millis) => millis))

export const make: Effect.Effect<Wake> = Effect.map(Effect.makeLatch(false), (latch) => {
  // most calls find the loop awake already, and opening a latch costs 2 us
  let awake = false
  const asleep = Effect.suspend(() => {
    awake = false
    return latch.close
  })
  return {
    wake: () => {
      if (awake) return
      awake = true
      Effect.runSync(latch.open)
    },
    // A turn is never interrupted, only the sleep after it. What wakes the loop during a turn leads to another one.
    loop: (turn) =>
      Effect.forever(Effect.zipRight(asleep, Effect.raceFirst(Effect.repeat(Effect.uninterruptible(turn), asAnswered), latch.await)))
  }
})

/**
 * Lets timers, sockets and signals have their turn. A synchronous driver never does: two of our loops that keep each other busy held
 * up everything else in the process for as long as there was work.
 */
export const breathe: Effect.Effect<void> = Effect.async((resume) => {
  setImmediate(() => resume(Effect.void))
})

/** How long a loop waits after a failure: 100 ms at first, 5 s at most, jittered. It is a turn's answer, so a wake-up cuts it short. */
export const makePatience = () => {
  let failures = 0
  return {
    reset: (): void => {
      failures = 0
    },
    pause: Effect.suspend(() => {
      const longest = Math.min(100 * 2 ** Math.min(failures++, 10), 5000)
      return Random.nextRange(longest / 2, longest)
    })
  }
}
