/** Something that is done at the end, whatever the end is, where nothing interrupts: `Effect.ensuring` makes such a region first. */
import * as Effect from "effect/Effect"

/** one operation of a fiber where `Effect.ensuring` takes nine */
export const thenAlways = <A, E, R>(effect: Effect.Effect<A, E, R>, end: () => Effect.Effect<void> | null): Effect.Effect<A, E, R> =>
  Effect.matchCauseEffect(effect, {
    onSuccess: (value) => after(end(), Effect.succeed(value)),
    onFailure: (cause) => after(end(), Effect.failCause(cause))
  })

const after = <A, E>(end: Effect.Effect<void> | null, answer: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  end === null ? answer : Effect.zipRight(end, answer)
