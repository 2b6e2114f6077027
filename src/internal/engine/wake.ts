/** What lets a loop sleep: a Schedule whose pauses are the turns' own answers, cut short by a wake-up from anywhere. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"

export interface Wake {
  /** wakes the loop, or lets it go on at once if it is at work; cheap, and safe to call from anywhere */
  readonly wake: () => void
  /** takes turns for ever; a turn says for how many milliseconds there is nothing to do, unless it is woken */
  readonly loop: <R>(turn: Effect.Effect<number, never, R>) => Effect.Effect<never, never, R>
}

export const make: Effect.Effect<Wake> = Effect.map(Effect.clock, (clock) => {
  let awake = false
  let cutShort: (() => void) | null = null

  // Racing a sleep with a wake-up, and beginning anew, took 0.3 ms longer from a notification to the claim it leads to; ending the
  // sleep that nobody waits for any more can come after it.
  const sleep = (millis: number) =>
    Effect.async<void>((resume) => {
      // asked here, where nothing comes between: a fiber may give way before it gets here, and be woken meanwhile
      if (awake) return resume(Effect.void)
      const sleeping = Effect.runFork(clock.sleep(Duration.millis(millis)))
      const end = () => {
        // a sleep that was cut short ends a moment after the next one has begun
        if (cutShort === end) cutShort = null
        resume(Effect.void)
        setImmediate(() => sleeping.unsafeInterruptAsFork(FiberId.none))
      }
      cutShort = end
      sleeping.addObserver(end)
      return Effect.sync(end)
    })
  const pause = (millis: number) => (millis <= 0 ? Effect.void : sleep(millis))
  // not the Schedule's own delay: that one nothing can cut short
  const asAnswered = Schedule.identity<number>().pipe(Schedule.tapOutput(pause))

  return {
    wake: () => {
      awake = true
      cutShort?.()
    },
    // A turn is never interrupted, only the pause after it. What wakes the loop during a turn leads to another one. By the Schedule's
    // driver: `Effect.repeat` provides each turn with a service, which takes 20 operations, and nobody asks for it.
    loop: (turn) =>
      Effect.flatMap(Schedule.driver(asAnswered), (driver) => {
        const next = Effect.uninterruptible(
          Effect.suspend(() => {
            awake = false
            return turn
          })
        )
        const body = Effect.flatMap(next, (millis) => driver.next(millis))
        return Effect.zipRight(Effect.orDie(Effect.whileLoop({ while: () => true, body: () => body, step: () => {} })), Effect.never)
      })
  }
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
