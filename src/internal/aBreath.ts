import * as Effect from "effect/Effect"

/**
 * Lets timers, sockets and signals have their turn. A synchronous driver never does: two of our loops that keep each other busy held
 * up everything else in the process for as long as there was work.
 */
export const aBreath: Effect.Effect<void> = Effect.async((resume) => {
  setImmediate(() => resume(Effect.void))
})
