/** Puts back the runs of dead holders, sets aside what nobody knows, and deletes what was kept long enough. Every instance does. */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type { Resolved } from "../settings.js"
import type { InstanceStore } from "../storage/instanceStore.js"
import type { RunStore } from "../storage/runStore.js"
import { metrics } from "../telemetry.js"
import type { Counts } from "./counts.js"
import { monotonicMillis } from "./deadlines.js"

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

/**
 * Whether the database's clock went on as ours did since it was last seen. When it jumps (a failover to a host with another time,
 * a step of NTP), leases seem to have run out that have not: until the living had time for two heartbeats, nobody is declared dead.
 */
const makeClockGuard = (settings: Resolved, clock: Clock.Clock) => {
  let offset: number | null = null
  let doubtUntil = Number.NEGATIVE_INFINITY
  return (databaseNow: number): boolean => {
    const now = monotonicMillis(clock)
    const jumped = offset !== null && Math.abs(databaseNow - now - offset) > settings.leaseMillis / 2
    offset = databaseNow - now
    if (jumped) doubtUntil = now + 2 * settings.heartbeatMillis
    return now >= doubtUntil
  }
}

export const sweep = (options: {
  readonly store: RunStore
  readonly settings: Resolved
  readonly counts: Counts
  readonly clock: Clock.Clock
  readonly rescued: () => void
}): Effect.Effect<void> => {
  const believes = makeClockGuard(options.settings, options.clock)
  return Effect.gen(function* () {
    const runs = yield* options.store.sweep(options.settings.leaseMillis, believes)
    if (runs > 0) {
      options.counts.rescued(runs)
      metrics.rescued(runs)
      yield* Effect.logWarning(`put back ${runs} runs whose instance died or overran`)
      options.rescued()
    }
  }).pipe(forever("the sweep", options.settings.sweepMillis))
}

export const housekeeping = (options: {
  readonly store: RunStore
  readonly instances: InstanceStore
  readonly settings: Resolved
  readonly unparked: () => void
}): Effect.Effect<void> => {
  const { retention } = options.settings
  const { instances, store } = options

  // pauses three times as long as the deletion took, so that it never takes more than a quarter of the database's time
  const deleteAll = (outcome: keyof typeof retention) => {
    const kept = retention[outcome]
    return kept === null
      ? Effect.void
      : Effect.timed(store.deleteFinished(outcome, kept)).pipe(
          Effect.flatMap(([took, deleted]) => Effect.delay(Effect.succeed(deleted), Duration.times(took, 3))),
          Effect.repeat({ while: (deleted) => deleted > 0 })
        )
  }

  return Effect.gen(function* () {
    let chores = yield* store.chores(retention)
    if (chores.unpark) while ((yield* store.unpark) > 0) options.unparked()
    while (chores.unknown.length > 0 && (yield* store.park(chores.unknown)) > 0) chores = yield* store.chores(retention)
    if (chores.finished.succeeded) yield* deleteAll("succeeded")
    if (chores.finished.failed) yield* deleteAll("failed")
    if (chores.finished.cancelled) yield* deleteAll("cancelled")
    if (chores.endedInstances) yield* instances.forget
  }).pipe(forever("housekeeping", housekeepingMillis))
}
