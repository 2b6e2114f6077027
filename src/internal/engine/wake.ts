/** What lets a loop sleep: a Schedule that comes from the turn itself, cut short by a wake-up from anywhere. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

export interface Wake {
  /** wakes the loop, or lets it go on at once if it is at work; cheap, and safe to call from anywhere */
  readonly wake: () => void
  /** takes turns for ever; a turn says for how many milliseconds there is nothing to do, unless it is woken */
  readonly loop: <R>(turn: Effect.Effect<number, never, R>) => Effect.Effect<never, never, R>
}

/** the delay of a turn is the turn's own answer */
const asAnswered = Schedule.identity<number>().pipe(Schedule.addDelay((millis) => millis))

export const make: Effect.Effect<Wake> = Effect.map(Effect.makeLatch(false), (latch) => ({
  wake: () => {
    Effect.runSync(latch.open)
  },
  // A turn is never interrupted, only the sleep after it. What wakes the loop during a turn leads to another one.
  loop: (turn) =>
    Effect.forever(
      Effect.zipRight(latch.close, Effect.raceFirst(Effect.repeat(Effect.uninterruptible(turn), asAnswered), latch.await))
    )
}))
