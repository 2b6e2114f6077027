/** A world whose every change is written down, with the processes that work in it. */
import type { SqlClient } from "@effect/sql"
import { type Duration, Effect, Schedule } from "effect"
import type { Run } from "jobsd"
import { Target } from "../../support/databases.js"
import { eventually, makeWorld } from "../../support/world.js"
import * as audit from "./audit.js"
import { check, type History } from "./checker.js"
import { type Options, ready, spawnWorker, startWorker, type Worker } from "./workers.js"

// what a fault has left in a pool may meet the instrument too, which is not what is tested
const read = <A, E>(look: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.unsandbox(Effect.retry(Effect.sandbox(look), { times: 5, schedule: Schedule.spaced("50 millis") }))

export const makeAuditedWorld = Effect.gen(function* () {
  const { url } = yield* Target
  const context = yield* Effect.context<SqlClient.SqlClient>()
  const world = yield* makeWorld
  yield* world.migrate
  yield* audit.install(world.prefix)
  const workers: Array<Worker> = []
  const remembered = (worker: Worker) => {
    workers.push(worker)
    return worker
  }
  return {
    ...world,
    /** every process of this world, also those that have died */
    workers: workers as ReadonlyArray<Worker>,
    worker: (options: Partial<Options> = {}, nodeOptions?: ReadonlyArray<string>) =>
      Effect.map(startWorker({ url, prefix: world.prefix, ...options }, nodeOptions), remembered),
    /** starts a process without waiting for it */
    spawn: (options: Partial<Options> = {}, nodeOptions?: ReadonlyArray<string>) =>
      Effect.map(spawnWorker({ url, prefix: world.prefix, ...options }, nodeOptions), remembered),
    changes: read(Effect.provide(audit.changes(world.prefix), context)),
    /** what became of these runs, and of everything else in the tables */
    verdict: (accepted: ReadonlyArray<Run.RunId>, more: Partial<History> = {}) =>
      Effect.map(read(Effect.provide(audit.load(world.prefix), context)), (loaded) =>
        check({
          accepted,
          executions: workers.flatMap((worker) => worker.executions()),
          freezes: workers.flatMap((worker) => worker.freezes()),
          ...loaded,
          ...more
        })
      )
  }
})

export type AuditedWorld = Effect.Effect.Success<typeof makeAuditedWorld>

/** Waits until every run of these has ended, whatever its outcome; the live end of a chain does not count. */
export const allEnded = (world: AuditedWorld, within: Duration.DurationInput = "60 seconds") =>
  Effect.asVoid(
    eventually(
      // some of them are enough to go on waiting, and to be shown
      world.rows<{ readonly id: string; readonly state: number }>("runs", "WHERE state IN (0, 1, 5, 6) AND schedule IS NULL LIMIT 20"),
      (live) => live.length === 0,
      within
    )
  )

/** Replaces processes that die, for as long as the scope is open. */
export const keepAlive = (world: AuditedWorld, processes: number, options: Partial<Options> = {}, nodeOptions?: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const start = world.spawn(options, nodeOptions)
    let alive = yield* Effect.replicateEffect(start, processes)
    yield* Effect.forkScoped(
      Effect.forever(
        Effect.gen(function* () {
          yield* Effect.sleep("20 millis")
          const living = alive.filter((worker) => !worker.hasExited())
          alive = [...living, ...(yield* Effect.replicateEffect(start, processes - living.length))]
        })
      )
    )
    yield* Effect.forEach(alive, ready, { discard: true })
  })
