/** How fast a run of another process is found: not by its poll, where the database can tell. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { afterEach, assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { type Clock, Duration, Effect, Layer } from "effect"
import { Jobsd } from "jobsd"
import * as announcer from "../src/internal/announcer.js"
import type { Hint } from "../src/internal/storage/hints.js"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { counted, eventually, makeWorld } from "./support/world.js"

onEveryDatabase("a run that another program creates", (it, database) => {
  /** an instance that has found nothing to do, and a client of a program of its own */
  const worldOf = (settings: Jobsd.Settings) =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Elsewhere")
      yield* world.start(live, { jobs: [job], pollInterval: "1 hour", ...settings })
      const { url } = yield* Target
      const other = yield* Layer.build(
        Layer.provide(Jobsd.layerClient({ tablePrefix: world.prefix, ...settings }), Layer.fresh(clientLayer(url, 2)))
      )
      // it listens a moment after it has started
      yield* Effect.sleep("300 millis")
      return {
        world,
        calls,
        create: (options?: Jobsd.Jobsd.CreateRunOptions) => Effect.provide(Jobsd.createRun(job, undefined, options), other)
      }
    })
  const started = (calls: ReadonlyArray<unknown>, count: number) =>
    eventually(
      Effect.sync(() => calls.length),
      (n) => n === count
    )

  it.scoped("is started long before the next poll", () =>
    Effect.gen(function* () {
      const { calls, create } = yield* worldOf({})
      for (const n of [1, 2, 3]) {
        yield* create()
        const [took] = yield* Effect.timed(started(calls, n))
        assert.isBelow(Duration.toMillis(took), 2000)
      }
    })
  )

  it.scoped("is started long before the next poll, also the last of many that were created one after the other", () =>
    Effect.gen(function* () {
      const { calls, create } = yield* worldOf({})
      for (const count of [20, 40]) {
        for (let n = 0; n < 20; n++) yield* create()
        const [took] = yield* Effect.timed(started(calls, count))
        assert.isBelow(Duration.toMillis(took), 2000)
      }
    })
  )

  it.scoped("is started when it is due, if it is delayed", () =>
    Effect.gen(function* () {
      const { calls, create } = yield* worldOf({})
      yield* create({ delay: "400 millis" })
      const [took] = yield* Effect.timed(started(calls, 1))
      assert.isAtLeast(Duration.toMillis(took), 300)
      assert.isBelow(Duration.toMillis(took), 2000)
    })
  )

  it.scoped("is found by polling alone when hints are off", () =>
    Effect.gen(function* () {
      const { calls, create } = yield* worldOf({ hints: false, pollInterval: "1200 millis" })
      yield* create()
      yield* started(calls, 1)
    })
  )

  if (database === "sqlite") {
    it.scoped("is started long before the next poll with a journal that is rolled back", () =>
      Effect.gen(function* () {
        const directory = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "jobsd-"))),
          (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
        )
        const filename = join(directory, "rolled-back.db")
        const client = () => Layer.fresh(Layer.orDie(SqliteClient.layer({ filename, disableWAL: true })))
        const { calls, job, live } = counted("Elsewhere")
        const instance = Jobsd.layer({ jobs: [job], pollInterval: "1 hour" }).pipe(Layer.provide(live), Layer.provide(client()))
        yield* Layer.build(instance)
        const other = yield* Layer.build(Layer.provide(Jobsd.layerClient(), client()))
        yield* Effect.sleep("100 millis")
        for (const n of [1, 2, 3]) {
          yield* Effect.provide(Jobsd.createRun(job), other)
          yield* started(calls, n)
        }
      })
    )
  }

  if (database === "postgres") {
    it.scoped("is heard of again after the listener's connection has died, without a poll", () =>
      Effect.gen(function* () {
        const live = yield* Effect.clock
        // the minute after which a listener makes sure that it hears, and how long it waits for that, are short here; the poll's hour is not
        const hasty: Clock.Clock = Object.create(live, {
          sleep: {
            value: (duration: Duration.Duration) =>
              live.sleep(Duration.between(duration, { minimum: "10 seconds", maximum: "1 minute" }) ? Duration.millis(1500) : duration)
          }
        })
        const { calls, create, world } = yield* Effect.withClock(worldOf({}), hasty)
        const listeners = world.unsafe(
          `SELECT pid FROM pg_stat_activity
           WHERE query = 'LISTEN "@_runs"' AND datname = current_database()`
        )
        const [listener, ...others] = yield* listeners
        assert.isDefined(listener)
        assert.isEmpty(others)
        yield* world.unsafe(`SELECT pg_terminate_backend(${listener?.pid})`)
        yield* eventually(listeners, ([now]) => now !== undefined && now.pid !== listener?.pid, "20 seconds")
        yield* create()
        yield* started(calls, 1)
      })
    )
  }
})

describe("a word about new runs", () => {
  const due = { queue: "default" }
  const makeAnnouncer = () => {
    const told: Array<string | null> = []
    const hints = { look: null, listen: null, word: () => "", announce: ({ queue }: Hint) => Effect.sync(() => void told.push(queue)) }
    return { told, ...announcer.make(hints, () => {}) }
  }
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it("goes at once, and stands for what is created in the next 5 ms", () => {
    const { announce, mayTell, told } = makeAnnouncer()
    announce([due])
    assert.deepStrictEqual(told, ["default"])
    vi.advanceTimersByTime(4)
    assert.isFalse(mayTell(due, false))
    assert.isTrue(mayTell({ queue: "another" }, false))
    vi.advanceTimersByTime(1)
    assert.isTrue(mayTell(due, false))
    vi.advanceTimersByTime(60_000)
    assert.deepStrictEqual(told, ["default"])
  })

  it("that is owed then goes with what is created next, or by itself", () => {
    const { announce, mayTell, told } = makeAnnouncer()
    assert.isTrue(mayTell(due, false))
    announce([due], due)
    announce([due])
    vi.advanceTimersByTime(6)
    assert.isTrue(mayTell(due, false))
    announce([due], due)
    vi.advanceTimersByTime(4)
    assert.deepStrictEqual(told, [])
    announce([due])
    vi.advanceTimersByTime(2)
    assert.deepStrictEqual(told, [])
    vi.advanceTimersByTime(1)
    assert.deepStrictEqual(told, ["default"])
  })

  it("that is owed does not go with what may wait for somebody", () => {
    const { announce, mayTell, told } = makeAnnouncer()
    announce([due])
    announce([due])
    vi.advanceTimersByTime(6)
    assert.isFalse(mayTell(due, true))
    vi.advanceTimersByTime(1)
    assert.deepStrictEqual(told, ["default", "default"])
  })
})
