/** Renews the lease, writes the counts, and compares the runs this instance owns with those it works on. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { Resolved } from "../settings.js"
import type { InstanceStore, Owned } from "../storage/instanceStore.js"
import type { RunStore } from "../storage/runStore.js"
import type { Counts } from "./counts.js"
import { monotonicMillis } from "./deadlines.js"
import type { Runner } from "./runner.js"
import type { Settler } from "./settler.js"
import type { WorkerPool } from "./workerPool.js"

export interface Heartbeat {
  /** whether the lease was confirmed recently enough to act on it */
  readonly trusted: () => boolean
  /** ends when this instance has been declared dead or could not renew its lease in time */
  readonly loop: Effect.Effect<void>
}

export const make = (options: {
  readonly instances: InstanceStore
  readonly store: RunStore
  readonly settings: Resolved
  readonly runner: Runner
  readonly settler: Settler
  readonly pools: ReadonlyArray<WorkerPool>
  readonly counts: Counts
  readonly clock: Clock.Clock
  /** the token of a claim whose answer is on its way, or null */
  readonly claiming: () => string | null
  /** the (monotonic) moment before this instance asked to be registered */
  readonly registeredAt: number
}): Heartbeat => {
  const { clock, counts, instances, pools, runner, settings, settler, store } = options
  let confirmedAt = options.registeredAt
  let dead = false
  const trusted = () => !dead && monotonicMillis(clock) - confirmedAt < settings.trustMillis
  // claims that the table says are ours and that we do not know, as of the last heartbeat: their answer may be on its way
  let unknownBefore = new Set<string>()

  // Not in the heartbeat's own time: a row that somebody else holds must not cost the lease.
  let releasing = false
  const release = (unknown: ReadonlyArray<Owned>) =>
    Effect.forEach(unknown, ({ fence, id }) =>
      Effect.flatMap(store.releaseUnknown(id, fence), (released) =>
        released
          ? Effect.logWarning("gave back a run whose claim was never answered").pipe(Effect.annotateLogs({ runId: id }))
          : Effect.void
      )
    ).pipe(
      Effect.catchAllCause((cause) => Effect.logWarning("could not give back a run; trying again", cause)),
      Effect.ensuring(
        Effect.sync(() => {
          releasing = false
        })
      )
    )

  const reconcile = (owned: ReadonlyArray<Owned>, asked: number) =>
    Effect.gen(function* () {
      const unknown = new Set<string>()
      const ahead = new Map(pools.flatMap((pool) => pool.waiting().map(({ run }) => [run.id as string, run])))
      const lost: Array<Owned> = []
      for (const row of owned) {
        const { cancelRequested, fence, id, token } = row
        const claim = `${id} ${fence}`
        if (runner.fenceOf(id) === fence || ahead.get(id)?.fence === fence) {
          if (cancelRequested) runner.cancel(id)
        } else if (settler.holds(id, fence)) {
          // it has ended here, and is about to be written
        } else if (token === options.claiming()) {
          // the answer may still come
        } else {
          unknown.add(claim)
          if (unknownBefore.has(claim)) lost.push(row)
        }
      }
      unknownBefore = unknown
      if (lost.length > 0 && !releasing) {
        releasing = true
        yield* Effect.forkDaemon(release(lost))
      }
      const fences = new Map(owned.map(({ fence, id }) => [id as string, fence]))
      for (const run of runner.startedBefore(asked)) {
        // taken back from us while we worked on it; what started after the question cannot be in the answer
        if (fences.get(run.id) !== run.fence) runner.interrupt(run.id, "lost")
      }
      for (const pool of pools) pool.withdraw(({ at, run }) => at < asked && fences.get(run.id) !== run.fence)
    })

  const beat = Effect.gen(function* () {
    // after a pause of the whole process this comes as late as the watch below, and must not revive what is to be given up
    if (!trusted()) {
      dead = true
      return
    }
    const asked = monotonicMillis(clock)
    const owned = yield* instances.heartbeat(counts.current())
    if (owned === null) {
      dead = true
      return
    }
    confirmedAt = asked
    yield* reconcile(owned, asked)
  })

  // beside the heartbeat, for one that hangs would notice too late
  const untrusted: Effect.Effect<void> = Effect.suspend(() => {
    const left = settings.trustMillis - (monotonicMillis(clock) - confirmedAt)
    return left <= 0 ? Effect.void : Effect.zipRight(Effect.sleep(left), untrusted)
  })

  return {
    trusted,
    // what hangs is not waited for
    loop: Effect.raceFirst(
      beat.pipe(
        Effect.sandbox,
        Effect.tapError((cause) => Effect.logWarning("could not renew the lease", cause)),
        Effect.ignore,
        Effect.repeat({ schedule: Schedule.spaced(settings.heartbeatMillis), while: () => !dead }),
        Effect.asVoid,
        Effect.disconnect
      ),
      untrusted
    )
  }
}
