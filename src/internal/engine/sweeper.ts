/** Puts back the runs of dead holders, sets aside what nobody knows, and deletes what was kept long enough. Every instance does. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { State } from "../lifecycle.js"
import type { Resolved } from "../settings.js"
import type { InstanceStore } from "../storage/instanceStore.js"
import type { RunStore } from "../storage/runStore.js"
import { metrics } from "../telemetry.js"
import type { Counts } from "./counts.js"

/** How often runs are parked and deleted. */
const housekeepingMillis = 60_000

/** at most so long, so that many instances spread out, and none is later than it says */
const jitteredDown = (millis: number) =>
  Schedule.spaced(millis).pipe(Schedule.modifyDelayEffect(() => Effect.map(Random.nextRange(0.8, 1), (factor) => factor * millis)))

const forever =
  (what: string, millis: number) =>
  <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<void> =>
    effect.pipe(
      Effect.sandbox,
      Effect.tapError((cause) => Effect.logWarning(`${what} failed; trying again`, cause)),
      Effect.ignore,
      Effect.repeat(jitteredDown(millis)),
      Effect.asVoid
    )

export const sweep = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly counts: Counts
  readonly rescued: () => void
}): Effect.Effect<void> =>
  Effect.gen(function* () {
    const runs = yield* options.store.sweep(options.settings.leaseMillis)
    if (runs > 0) {
      options.counts.rescued(runs)
      metrics.rescued(runs)
      yield* Effect.logWarning(`put back ${runs} runs whose instance died or overran`)
      options.rescued()
    }
  }).pipe(forever("the sweep", options.settings.sweepMillis))

export const housekeeping = (options: {
  readonly store: RunStore
  readonly instances: InstanceStore
  readonly settings: Resolved
  readonly unparked: () => void
}): Effect.Effect<void> => {
  const { retention } = options.settings
  const { instances, store } = options

  const park = Effect.gen(function* () {
    while ((yield* store.unpark) > 0) options.unparked()
    while ((yield* store.park) > 0) {}
  })

  // pauses for as long as the deletion took, so that it never takes more than half of the database's time
  const deleteAll = (state: State, kept: number | null) =>
    kept === null
      ? Effect.void
      : Effect.timed(store.deleteFinished(state, kept)).pipe(
          Effect.flatMap(([took, deleted]) => Effect.delay(Effect.succeed(deleted), took)),
          Effect.repeat({ while: (deleted) => deleted > 0 })
        )

  return Effect.gen(function* () {
    yield* park
    yield* deleteAll(State.succeeded, retention.succeeded)
    yield* deleteAll(State.failed, retention.failed)
    yield* deleteAll(State.cancelled, retention.cancelled)
    yield* instances.forget(30 * 24 * 60 * 60 * 1000)
  }).pipe(forever("housekeeping", housekeepingMillis))
}
