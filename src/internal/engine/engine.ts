/**
 * Builds the loops of an instance, and takes them down in the right order. A session is one registration in the database: when its
 * lease is lost, its handlers are interrupted and the next session registers anew, under another id.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { Instance, InstanceId } from "../../Instance.js"
import type { JobSchedule } from "../../JobSchedule.js"
import type { StorageError } from "../../JobsdError.js"
import { aBreath } from "../aBreath.js"
import type { Announcer } from "../announcer.js"
import { awaited } from "../awaited.js"
import type { Resolved } from "../settings.js"
import { type Database, once, outsideTransaction, patient, type Patience as StoragePatience } from "../storage/database.js"
import type { Hint, Hints } from "../storage/hints.js"
import * as instanceStore from "../storage/instanceStore.js"
import * as runStore from "../storage/runStore.js"
import { loop as asLoop } from "../telemetry.js"
import { freshUuidv7 } from "../uuid.js"
import type { HandledJob } from "./attempt.js"
import * as makeCounts from "./counts.js"
import * as makeDeadlines from "./deadlines.js"
import * as makeHeartbeat from "./heartbeat.js"
import { listen } from "./listener.js"
import * as makePoller from "./poller.js"
import * as makeQuarantine from "./quarantine.js"
import * as makeRunner from "./runner.js"
import { make as makeSettler } from "./settler.js"
import { housekeeping, sweep } from "./sweeper.js"
import * as makeWorkerPool from "./workerPool.js"

export interface Engine {
  readonly id: () => InstanceId
  /** something may be due */
  readonly heard: (hint: Hint) => void
  /** stops a run that is to be cancelled, if it is here */
  readonly cancel: (id: string) => void
  /** a shutdown, now or later, does not wait for handlers to end by themselves */
  readonly hurry: Effect.Effect<void>
  readonly instance: Effect.Effect<Instance, StorageError>
}

interface Session extends Engine {
  /** ends when the lease is lost */
  readonly lost: Effect.Effect<void>
  readonly shutdown: (patience: Patience) => Effect.Effect<void>
}

/** How long each step of a shutdown may take, in milliseconds. */
interface Patience {
  /** for handlers to end by themselves */
  readonly handlers: number
  /** for the finalizers of interrupted handlers */
  readonly finalizers: number
  /** for outcomes to reach the database, and for signing off, all in all */
  readonly flush: number
  readonly reason: makeRunner.Reason
}

export interface EngineOptions {
  readonly database: Database
  readonly hints: Hints
  readonly announcer: Announcer
  readonly settings: Resolved
  readonly jobs: ReadonlyMap<string, HandledJob>
  readonly schedules: ReadonlyMap<string, JobSchedule>
  readonly host: string
  readonly pid: number
}

const startSession = (
  { announcer, database, hints, host, jobs, pid, schedules, settings }: EngineOptions,
  registering: StoragePatience
): Effect.Effect<Session, StorageError> =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const id = freshUuidv7(Date.now()) as InstanceId
    const known = { jobs: [...jobs.keys()], schedules: [...schedules.keys()] }
    const queues = [...settings.queues.keys()]
    const store = runStore.make({ database, me: id, known, queues, leaseMillis: settings.leaseMillis })
    const instances = instanceStore.make(
      database,
      { id, host, pid, ...known, queues: Object.fromEntries(settings.queues) },
      settings.leaseMillis
    )
    const counts = makeCounts.make()
    const registeredAt = makeDeadlines.monotonicMillis(clock)
    const registered = yield* instances.register(counts.current(), registering)

    const runFork = yield* Effect.map(Effect.runtime<never>(), (runtime) => (effect: Effect.Effect<void>) => {
      Effect.runFork(Effect.provide(effect, runtime))
    })
    const lost = yield* Deferred.make<void>()
    const hurried = yield* Deferred.make<void>()
    let draining = false
    // the poller and the pools are made last, but those before them wake and ask them
    let poller: makePoller.Poller | undefined
    const wake = () => poller?.wake()
    const goOn = () => poller?.goOn()
    let pools: ReadonlyArray<makeWorkerPool.WorkerPool> = []

    const { answersAtOnce } = database.dialect
    // whoever waits for an answer lets others have their turn anyway
    const breathe = answersAtOnce ? aBreath : Effect.void
    const deadlines = yield* makeDeadlines.make
    const settler = yield* makeSettler({
      store,
      settings,
      policies: new Map([...jobs].map(([name, { job }]) => [name, job.policy])),
      schedules,
      counts,
      settled: goOn,
      waiting: wake,
      // others may start now what we gave back
      released: (queue) => announcer.announce([{ queue }]),
      breathe
    })
    const runner = makeRunner.make({
      instanceId: id,
      jobs,
      settings,
      settler,
      pools: () => pools,
      deadlines,
      counts,
      clock,
      warn: (message, run) => runFork(Effect.annotateLogs(Effect.logWarning(message), { job: run.job, runId: run.id }))
    })
    pools = [...settings.queues].map(([queue, workers]) =>
      makeWorkerPool.make({ queue, workers, answersAtOnce, start: runner.start, roomAgain: goOn })
    )
    const heartbeat = makeHeartbeat.make({
      instances,
      store,
      settings,
      runner,
      settler,
      pools,
      counts,
      clock,
      claiming: () => poller?.claiming() ?? null,
      registeredAt
    })
    poller = yield* makePoller.make({
      store,
      settings,
      pools,
      runner,
      quarantine: makeQuarantine.make(clock, (run) => runner.fenceOf(run) !== undefined),
      deadlines,
      clock,
      look: hints.look,
      mayClaim: () => !draining && heartbeat.trusted(),
      unsettled: settler.unsettled,
      breathe
    })

    const heard = ({ queue }: Hint) => (queue === null ? wake() : poller?.due(queue))

    const fork = (name: string, effect: Effect.Effect<unknown>) => Effect.forkDaemon(Effect.interruptible(asLoop(name)(effect)))
    // a start takes as long as a hundred first runs, and everybody has had to wait for it already
    const polling = yield* fork("poller", Effect.zipRight(breathe, poller.loop))
    const others = yield* Effect.all([
      fork("settler", settler.loop),
      fork("deadlines", deadlines.loop),
      fork("heartbeat", Effect.zipRight(heartbeat.loop, Deferred.succeed(lost, undefined))),
      fork("sweeper", sweep({ store, settings, counts, clock, rescued: wake })),
      fork("listener", listen(hints, heard)),
      fork("housekeeping", housekeeping({ store, instances, settings, unparked: wake }))
    ])

    const idle = Effect.suspend(() => (runner.running() === 0 ? Effect.void : Effect.fail("busy" as const))).pipe(
      Effect.retry(Schedule.spaced("5 millis")),
      Effect.ignore
    )
    const within = (millis: number, effect: Effect.Effect<unknown, unknown>): Effect.Effect<void> =>
      Effect.ignore(
        awaited(Effect.interruptible(effect), millis, (fiber) => Effect.zipRight(Fiber.interruptFork(fiber), Effect.fail("late" as const)))
      )

    const shutdown = (patience: Patience) =>
      Effect.gen(function* () {
        // all steps that ask the database share one budget: if it is silent, the first of them spends it
        let left = patience.flush
        const briefly = (effect: Effect.Effect<unknown, unknown>) =>
          Effect.map(Effect.timed(within(left, effect)), ([took]) => {
            left = Math.max(left - Duration.toMillis(took), 0)
          })

        draining = true
        // others could start these now
        const ahead = pools.flatMap((pool) => pool.withdraw(() => true))
        yield* Fiber.interruptFork(polling)
        if (patience.reason === "lost") {
          // others may have these runs already: stop them before anything that may take time
          runner.interruptAll("lost")
        } else {
          runner.giveBack(ahead)
          yield* Effect.forkDaemon(Effect.ignore(instances.drain))
        }
        yield* within(patience.handlers, Effect.raceAll([idle, Deferred.await(hurried), Deferred.await(lost)]))
        // the lease can be lost meanwhile: then others have these runs
        runner.interruptAll((yield* Deferred.isDone(lost)) ? "lost" : patience.reason)
        yield* within(patience.finalizers, idle)
        for (const pool of pools) pool.tellBusy()
        for (const run of runner.alive()) {
          yield* Effect.logWarning("a handler ignores its interruption; its run is left to the lease").pipe(
            Effect.annotateLogs({ job: run.job, runId: run.id })
          )
        }
        // a claim that was on its way is given back when its answer is here
        yield* briefly(Fiber.await(polling))
        yield* briefly(settler.flush)
        yield* briefly(Fiber.interruptAll(others))
        // an instance that has signed off holds nothing: others start its runs at once, beside handlers that are still there
        if (runner.alive().length === 0) yield* briefly(instances.stop(counts.current()))
      }).pipe(Effect.withTracerEnabled(false))

    return {
      id: () => id,
      heard,
      cancel: runner.cancel,
      instance: Effect.withFiberRuntime((fiber) =>
        Effect.map(instances.read(database.transactionOf(fiber.currentContext)), (found) => ({
          ...(found ?? registered),
          counts: counts.current()
        }))
      ),
      hurry: Effect.asVoid(Deferred.succeed(hurried, undefined)),
      lost: Deferred.await(lost),
      shutdown
    }
  })

/** Starts an instance. It stops when the scope closes: no more claims, handlers end or are interrupted, outcomes are written. */
export const start = (options: EngineOptions): Effect.Effect<Engine, StorageError, Scope.Scope> =>
  Effect.gen(function* () {
    const orderly: Patience = { handlers: options.settings.shutdownMillis, finalizers: 5000, flush: 3000, reason: "shutdown" }
    const abrupt: Patience = { handlers: 0, finalizers: 5000, flush: 3000, reason: "lost" }
    // It is tried again all the same, and a shutdown waits for a try to end. Trust is counted from before a try: the last third of it is for
    // the first heartbeat, or the session would claim runs and lose them at once.
    const registeringMillis = Math.min(3000, options.settings.trustMillis / 3)

    const current = yield* Ref.make<Option.Option<Session>>(Option.none())
    yield* Effect.addFinalizer(() =>
      Effect.flatMap(Ref.get(current), Option.match({ onNone: () => Effect.void, onSome: (session) => session.shutdown(orderly) }))
    )
    const first = yield* Effect.uninterruptible(startSession(options, patient))
    let latest: Session = first
    yield* Ref.set(current, Option.some(first))

    yield* Effect.gen(function* () {
      yield* latest.lost
      yield* Effect.logWarning("this instance could not renew its lease: its handlers are interrupted, and it registers anew")
      yield* Effect.uninterruptible(
        Effect.gen(function* () {
          yield* latest.shutdown(abrupt)
          yield* Ref.set(current, Option.none())
        })
      )
      latest = yield* startSession(options, { ...once, tryMillis: registeringMillis }).pipe(
        Effect.tap((session) => Ref.set(current, Option.some(session))),
        Effect.uninterruptible,
        Effect.tapError((error) => Effect.logWarning("could not register; trying again", error)),
        Effect.retry(Schedule.jittered(Schedule.union(Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")))),
        Effect.orDie
      )
    }).pipe(Effect.forever, asLoop("engine"), Effect.interruptible, Effect.forkScoped)

    return {
      id: () => latest.id(),
      heard: (hint: Hint) => latest.heard(hint),
      cancel: (id: string) => latest.cancel(id),
      hurry: Effect.suspend(() => latest.hurry),
      instance: Effect.suspend(() => latest.instance)
    }
  }).pipe(outsideTransaction)
