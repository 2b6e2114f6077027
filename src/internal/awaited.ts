/** Waiting for an effect for so long and no longer, whatever interrupts the waiter. */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

/**
 * The fiber goes on when the waiter has given up, unless `late` stops it. Nothing shortens the wait: `Effect.timeout` needs an
 * interruptible region, in which a second interruption of the program would end it.
 */
export const awaitedFiber = <A, E, E2 = never>(
  fiber: Fiber.RuntimeFiber<A, E>,
  millis: number,
  late: (fiber: Fiber.RuntimeFiber<A, E>) => Effect.Effect<never, E2>
): Effect.Effect<A, E | E2> =>
  // what never waited has ended by now
  fiber.unsafePoll() ??
  Effect.async<A, E | E2>((resume) => {
    const timer = millis === Number.POSITIVE_INFINITY ? undefined : setTimeout(() => resume(late(fiber)), millis)
    fiber.addObserver((exit) => {
      clearTimeout(timer)
      resume(exit)
    })
  })

/** The effect runs in a fiber of its own. */
export const awaited = <A, E, E2>(
  effect: Effect.Effect<A, E>,
  millis: number,
  late: (fiber: Fiber.RuntimeFiber<A, E>) => Effect.Effect<never, E2>
): Effect.Effect<A, E | E2> => Effect.flatMap(Effect.forkDaemon(effect), (fiber) => awaitedFiber(fiber, millis, late))
