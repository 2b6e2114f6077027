/**
 * Short stories about the guards in an instance's code: what its statements cannot know, such as whether its own process still has a
 * handler for a run. Each goes wrong with an assertion when its guard is missing, and says so if what it tells of did not happen.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { type Clock, Context, Effect, Layer, type Scope } from "effect"
import { Job } from "jobsd"
import { clientLayer } from "../support/client.js"
import { type DatabaseName, Target } from "../support/databases.js"
import { eventually, makeWorld, reaches } from "../support/world.js"
import { type Guard, lacking } from "./brokenEngine.js"
import { make as makeFaulty } from "./support/faultyClient.js"

const leaseMillis = 3000
const forEver = { retriesOnCrash: Number.POSITIVE_INFINITY } as const

/** A handler at work. */
interface Execution {
  readonly run: string
  readonly from: number
  /** how many heartbeats had been sent when it started */
  readonly beats: number
  until: number | null
  interrupted: boolean
}

/** A world for one story, with a client of its own, whose instances may lack a guard. */
const makeStage = (guard: Guard | null) =>
  Effect.gen(function* () {
    const { name, url } = yield* Target
    const own =
      name === "sqlite"
        ? yield* SqlClient.SqlClient
        : Context.get(yield* Layer.build(Layer.fresh(clientLayer(url, 4))), SqlClient.SqlClient)
    const faulty = makeFaulty(own)
    const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
    // another program, which no fault strikes
    const other = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, own)
    const executions: Array<Execution> = []
    const count = (kind: "heartbeat" | "look") => faulty.seen.filter((seen) => seen.kind === kind).length
    const job = (work: Effect.Effect<void>) => {
      const Told = Job.make("Told")
      const live = Told.toLayer((_, run) =>
        Effect.suspend(() => {
          const execution: Execution = { run: run.id, from: Date.now(), beats: count("heartbeat"), until: null, interrupted: false }
          executions.push(execution)
          return Effect.onExit(work, ({ _tag }) =>
            Effect.sync(() => {
              execution.until = Date.now()
              execution.interrupted = _tag === "Failure"
            })
          )
        })
      )
      return { Told, live }
    }
    type Told = ReturnType<typeof job>
    const options = ({ Told }: Told) =>
      ({ jobs: [Told], workers: 4, leaseDuration: leaseMillis, shutdownTimeout: 0, tablePrefix: world.prefix }) as const
    return {
      name,
      world,
      faulty,
      executions,
      count,
      job,
      start: (told: Told, more: { readonly leaseDuration?: number } = {}) =>
        lacking(guard)(world.start(told.live, { ...options(told), ...more })),
      startOther: (told: Told) => other.start(told.live, options(told)),
      /** whether an instance has said so of its lease, since there were so many log lines */
      couldNotRenew: (since: number) => world.logs.slice(since).some(({ message }) => message.includes("renew")),
      /** until so many more statements of a kind were sent, or something has happened before */
      until: (kind: "heartbeat" | "look", more: number, happened: () => boolean = () => false) => {
        const from = count(kind)
        return eventually(
          Effect.sync(() => happened() || count(kind) >= from + more),
          (isSo) => isSo,
          "20 seconds"
        )
      }
    }
  })

/** a clock that can be put forward, for an instance that reads the time off the Clock in its context */
export const movableClock = Effect.map(Effect.clock, (clock) => {
  let ahead = 0n
  const moved: Clock.Clock = Object.create(clock, {
    unsafeCurrentTimeNanos: { value: () => clock.unsafeCurrentTimeNanos() + ahead }
  })
  return {
    clock: moved,
    forward: (millis: number) => {
      ahead += BigInt(millis) * 1_000_000n
    }
  }
})

/** Three suspects whose handlers go on for ever, on one instance: each starts when the one before it has lived for ten seconds. */
export const suspectsOneByOne = (guard: Guard | null) =>
  Effect.gen(function* () {
    const stage = yield* makeStage(guard)
    const { executions, until, world } = stage
    const told = stage.job(Effect.never)
    yield* world.migrate
    const client = yield* world.client()
    yield* client.createRuns(told.Told, [undefined, undefined, undefined])
    yield* world.unsafe("UPDATE @_runs SET state = 6, crashes = 1")
    const { clock, forward } = yield* movableClock
    // a lease that does not mind a clock which jumps
    yield* Effect.withClock(stage.start(told, { leaseDuration: 120_000 }), clock)
    const started = () => executions.length
    const looksOn = (expected: number, when: string) =>
      Effect.map(
        until("look", 3, () => started() > expected),
        () => assert.strictEqual(started(), expected, when)
      )
    for (const nth of [1, 2, 3]) {
      yield* until("look", 10, () => started() >= nth)
      yield* looksOn(nth, nth === 1 ? "at first" : "when the one before had lived for ten seconds")
      forward(5000)
      yield* looksOn(nth, "when the latest had not lived for ten seconds")
      forward(5000)
    }
    assert.isTrue(
      executions.every((execution) => execution.until === null),
      "all of them live"
    )
    const counted = yield* world.rows("runs", "WHERE state = 1 AND crashes = 1")
    assert.lengthOf(counted, 3)
  })

export interface Story {
  readonly tell: (guard: Guard | null) => Effect.Effect<unknown, unknown, SqlClient.SqlClient | Target | Scope.Scope>
  /** where one connection does not have to do for everything */
  readonly on?: ReadonlyArray<DatabaseName>
}

const servers = ["postgres", "mysql"] as const

/** what may not happen in the first try, because the machine was busy just then */
const luckily = <A, E, R>(round: Effect.Effect<A | null, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    for (let tries = 0; tries < 10; tries++) {
      const found = yield* round
      if (found !== null) return found
    }
    throw new Error("what the story tells of did not happen")
  })

/** so many heartbeats see a claim while its answer is on its way */
const answeredLate = (heartbeats: number): Story => ({
  on: servers,
  tell: (guard) =>
    Effect.gen(function* () {
      const stage = yield* makeStage(guard)
      const { count, executions, faulty, name } = stage
      const told = stage.job(Effect.sleep("50 millis"))
      const jobsd = yield* stage.start(told)
      const round = Effect.gen(function* () {
        yield* stage.until("heartbeat", 1)
        const before = count("heartbeat")
        const millis = (heartbeats + 0.5) * (leaseMillis / 5)
        // after a second it is looked for what the claim has taken, and that look is late, too; MySQL always looks
        if (millis > 1000) {
          faulty.arm({ at: "claim", when: "after", nth: 1, act: { do: "delay", millis } })
          faulty.arm({ at: "claim read", when: "after", nth: 1, act: { do: "delay", millis: millis - 1000 } })
        } else {
          faulty.arm({ at: name === "mysql" ? "claim read" : "claim", when: "after", nth: 1, act: { do: "delay", millis } })
        }
        const id = yield* jobsd.createRun(told.Told, undefined)
        yield* reaches(jobsd, id, "succeeded")
        const mine = executions.filter(({ run }) => run === id)
        return mine[0]!.beats - before === heartbeats ? mine.length : null
      })
      // three times, for a heartbeat may have been sent at the last moment, too late to see anything
      for (let rounds = 0; rounds < 3; rounds++) assert.strictEqual(yield* luckily(round), 1, "how often the handler started")
    })
})

export const stories: { readonly [G in Guard]: Story } = {
  "trust window": {
    tell: (guard) =>
      Effect.gen(function* () {
        const stage = yield* makeStage(guard)
        const { executions, faulty } = stage
        const told = stage.job(Effect.never)
        const cutOff = yield* stage.start(told)
        faulty.arm({ at: "heartbeat", when: "before", act: { do: "lose" } })
        yield* cutOff.createRun(told.Told, undefined, forEver)
        yield* eventually(
          Effect.sync(() => executions.length),
          (started) => started === 1
        )
        yield* stage.startOther(told)
        yield* eventually(
          Effect.sync(() => executions.length),
          (started) => started > 1
        )
        assert.isAbove(faulty.struck(), 0)
        assert.isNotNull(executions[0]!.until, "the first handler has ended when the second one starts")
      })
  },
  reconcile: {
    tell: (guard) =>
      Effect.gen(function* () {
        const stage = yield* makeStage(guard)
        const { executions, faulty, name, world } = stage
        const told = stage.job(Effect.void)
        const jobsd = yield* stage.start(told)
        const round = Effect.gen(function* () {
          const struck = faulty.struck()
          const said = world.logs.length
          faulty.arm({ at: "claim", when: "after", nth: 1, act: { do: "lose" } })
          faulty.arm({ at: "claim read", when: "before", act: { do: "lose" } })
          const id = yield* jobsd.createRun(told.Told, undefined)
          yield* eventually(
            Effect.sync(() => world.logs.slice(said).filter(({ message }) => message.startsWith("could not claim runs"))),
            (logs) => logs.length > 0
          )
          faulty.disarm()
          // nothing of it, if that was a claim which had found nothing yet
          const isTaken = (yield* jobsd.getRunState(id)).status === "running"
          const beats = stage.count("heartbeat")
          const started = () => executions.filter(({ run }) => run === id).length
          yield* stage.until("heartbeat", 5, () => started() > 0)
          // nor if another claim, which had its answer, has taken it: its handler does not wait for a heartbeat
          const isAnswered = executions.some((execution) => execution.run === id && execution.beats <= beats)
          // unless the claim has failed in another way, the look for what it had taken has failed, too
          const isLost = isTaken && !isAnswered && faulty.struck() - struck >= (name === "sqlite" ? 1 : 2)
          // when a lease is lost, others take back what it covered
          return isLost && !stage.couldNotRenew(said) ? started() : null
        })
        assert.strictEqual(yield* luckily(round), 1, "the run has been claimed again")
      })
  },
  "second look": answeredLate(1),
  "on its way": answeredLate(2),
  "about to be written": {
    on: servers,
    tell: (guard) =>
      Effect.gen(function* () {
        const stage = yield* makeStage(guard)
        const { count, executions, faulty } = stage
        const told = stage.job(Effect.void)
        const jobsd = yield* stage.start(told)
        const round = Effect.gen(function* () {
          faulty.arm({ at: "settle", when: "before", nth: 1, act: { do: "delay", millis: 2200 } })
          const id = yield* jobsd.createRun(told.Told, undefined)
          yield* reaches(jobsd, id, "succeeded")
          const mine = executions.filter(({ run }) => run === id)
          // so many heartbeats have seen a run without a handler
          return count("heartbeat") - mine[0]!.beats >= 2 ? mine.length : null
        })
        assert.strictEqual(yield* luckily(round), 1, "how often the handler started")
      })
  },
  "taken back": {
    tell: (guard) =>
      Effect.gen(function* () {
        const stage = yield* makeStage(guard)
        const { executions, world } = stage
        const told = stage.job(Effect.never)
        const jobsd = yield* stage.start(told)
        const round = Effect.gen(function* () {
          const said = world.logs.length
          const id = yield* jobsd.createRun(told.Told, undefined)
          const mine = yield* eventually(
            Effect.sync(() => executions.find(({ run }) => run === id)),
            (started) => started !== undefined
          )
          yield* world.unsafe("UPDATE @_runs SET state = 4, finished_at = 0, fence = fence + 1, owner = NULL")
          yield* stage.until("heartbeat", 3, () => mine!.interrupted)
          // who has lost its lease interrupts all of its handlers
          return stage.couldNotRenew(said) ? null : mine!
        })
        assert.isTrue((yield* luckily(round)).interrupted, "its handler is interrupted")
      })
  },
  "started since": {
    on: servers,
    tell: (guard) =>
      Effect.gen(function* () {
        const stage = yield* makeStage(guard)
        const { executions, faulty, name, world } = stage
        const told = stage.job(Effect.sleep("800 millis"))
        // a heartbeat is waited for for a tenth of this
        const jobsd = yield* stage.start(told, { leaseDuration: 6000 })
        // a run starts between a heartbeat's look and its answer, which is late, and not too late
        const round = Effect.gen(function* () {
          const struck = faulty.struck()
          const unanswered = world.logs.length
          faulty.arm({ at: name === "mysql" ? "reconcile" : "heartbeat", when: "after", nth: 1, act: { do: "delay", millis: 400 } })
          yield* eventually(Effect.sync(faulty.struck), (now) => now > struck)
          const asked = Date.now()
          const id = yield* jobsd.createRun(told.Told, undefined)
          yield* eventually(
            Effect.sync(() => executions.find(({ run, until }) => run === id && until !== null)),
            (ended) => ended !== undefined
          )
          const first = executions.find(({ run }) => run === id)!
          return first.from - asked < 350 && !stage.couldNotRenew(unanswered) ? first : null
        })
        const met = yield* luckily(round)
        assert.isFalse(met.interrupted, "its handler goes on")
      })
  },
  quarantine: { tell: suspectsOneByOne },
  release: { tell: suspectsOneByOne }
}
