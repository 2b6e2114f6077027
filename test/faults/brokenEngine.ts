/**
 * What becomes of an instance when a guard of its code is missing: its modules, each with one guard taken out as they are made. Which
 * one, the fiber says that starts the instance, so that sound and broken ones can live side by side.
 */
import { Effect, Fiber, FiberRef, Option } from "effect"
import type * as Heartbeat from "../../src/internal/engine/heartbeat.js"
import type * as Quarantine from "../../src/internal/engine/quarantine.js"

export type Guard =
  | "trust window" // handlers are stopped while the lease still holds
  | "reconcile" // a claim whose answer was lost is given back
  | "second look" // not when it is first seen, for its answer may be on its way
  | "on its way" // nor for as long as it is known to be
  | "about to be written" // nor one whose outcome is
  | "taken back" // a handler whose run was taken back is stopped
  | "started since" // but not one that started after the question
  | "quarantine" // one suspect at a time
  | "release" // for its first seconds, not for ever

const missing = FiberRef.unsafeMake<Guard | null>(null)

/** An instance that starts in here lacks a guard. */
export const lacking =
  (guard: Guard | null) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.locally(effect, missing, guard)

const lacks = (guard: Guard): boolean =>
  Option.exists(Fiber.getCurrentFiber(), (fiber) => (fiber as Fiber.RuntimeFiber<unknown>).getFiberRef(missing) === guard)

type Options = Parameters<typeof Heartbeat.make>[0]

/** gives back at the first look what nobody here knows */
const hasty = ({ instances, pools, runner, settler, store }: Options): Options["instances"] => ({
  ...instances,
  heartbeat: (counts) =>
    Effect.tap(instances.heartbeat(counts), (owned) =>
      Effect.forEach(owned ?? [], ({ fence, id }) => {
        const isAhead = pools.some((pool) => pool.waiting().some(({ run }) => run.id === id))
        return isAhead || runner.fenceOf(id) === fence || settler.holds(id, fence) ? Effect.void : store.releaseUnknown(id, fence)
      })
    )
})

export const heartbeat = (real: typeof Heartbeat): typeof Heartbeat => ({
  ...real,
  make: (options) => {
    const { runner, settings, settler, store } = options
    if (lacks("trust window")) return real.make({ ...options, settings: { ...settings, trustMillis: Number.POSITIVE_INFINITY } })
    if (lacks("reconcile")) return real.make({ ...options, store: { ...store, releaseUnknown: () => Effect.succeed(false) } })
    if (lacks("second look")) return real.make({ ...options, instances: hasty(options) })
    if (lacks("on its way")) return real.make({ ...options, claiming: () => null })
    if (lacks("about to be written")) return real.make({ ...options, settler: { ...settler, holds: () => false } })
    if (lacks("taken back")) return real.make({ ...options, runner: { ...runner, interrupt: () => {} } })
    if (lacks("started since")) {
      return real.make({ ...options, runner: { ...runner, startedBefore: () => runner.startedBefore(Number.POSITIVE_INFINITY) } })
    }
    return real.make(options)
  }
})

export const quarantine = (real: typeof Quarantine): typeof Quarantine => ({
  ...real,
  make: (clock, isHere) => {
    const { enter, freeIn } = real.make(clock, isHere)
    if (lacks("quarantine")) return { enter, freeIn: () => 0 }
    if (!lacks("release")) return { enter, freeIn }
    let suspect: string | null = null
    return {
      enter: (id) => {
        suspect = id
      },
      freeIn: () => (suspect !== null && isHere(suspect) ? 100 : 0)
    }
  }
})
