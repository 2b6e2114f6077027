/** Settings stop the layer at once when they are wrong, and say which. */
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, effect, it, scoped } from "@effect/vitest"
import { Config, ConfigProvider, Duration, Effect, Layer, Schedule } from "effect"
import { Job, JobSchedule, Jobsd } from "jobsd"
import { defaults, delayAfter, replay, resolve } from "../src/internal/settings.js"

const memory = SqliteClient.layer({ filename: ":memory:" })
const A = Job.make("A")
const ALive = A.toLayer(() => Effect.void)

const wrong: ReadonlyArray<readonly [string, object]> = [
  ["workers", { workers: 0 }],
  ["workers", { workers: 1.5 }],
  ["queues.mail", { queues: { mail: 0 } }],
  ["queues.", { queues: { "": 1 } }],
  ["queues.default", { workers: 2, queues: { default: 3 } }],
  ["pollInterval", { pollInterval: "0 seconds" }],
  ["pollInterval", { pollInterval: Number.POSITIVE_INFINITY }],
  ["pollInterval", { pollInterval: "often" }],
  ["pollLimit", { pollLimit: 0 }],
  ["timeoutCheck", { timeoutCheck: -1 }],
  ["leaseDuration", { leaseDuration: "2 seconds" }],
  ["shutdownTimeout", { shutdownTimeout: Number.POSITIVE_INFINITY }],
  ["tablePrefix", { tablePrefix: "Nope" }],
  ["payloadLimit", { payloadLimit: 0 }],
  ["retention.failed", { retention: { failed: "a while" } }],
  ["timeout", { timeout: 0 }],
  ["retriesOnError", { retriesOnError: -1 }],
  ["retriesOnTimeout", { retriesOnTimeout: 0.5 }],
  ["retriesOnCrash", { retriesOnCrash: Number.NaN }]
]

describe("settings", () => {
  for (const [setting, settings] of wrong) {
    scoped(`${JSON.stringify(settings)} are refused by name`, () =>
      Effect.gen(function* () {
        const layer = Jobsd.layer({ jobs: [A], ...settings }).pipe(Layer.provide(ALive), Layer.provide(memory))
        const error = yield* Effect.flip(Layer.build(layer))
        assert.deepInclude(error, { _tag: "SettingsError", setting })
        assert.include(String(error), setting)
      })
    )
  }

  scoped("two jobs or two schedules of one name are refused, and names that no table can hold", () =>
    Effect.gen(function* () {
      const twice = Jobsd.layer({ jobs: [A, Job.make("A")] }).pipe(Layer.provide(ALive), Layer.provide(memory))
      assert.deepInclude(yield* Effect.flip(Layer.build(twice)), { _tag: "SettingsError", setting: "jobs" })
      const Daily = JobSchedule.cron("Daily", "@daily")
      const schedules = Jobsd.layer({ jobs: [], schedules: [Daily, JobSchedule.every("Daily", "1 day")] }).pipe(Layer.provide(memory))
      assert.deepInclude(yield* Effect.flip(Layer.build(schedules)), { _tag: "SettingsError", setting: "schedules" })
      const Blank = Job.make(" A")
      const blank = Jobsd.layer({ jobs: [Blank] }).pipe(Layer.provide(Blank.toLayer(() => Effect.void)), Layer.provide(memory))
      assert.deepInclude(yield* Effect.flip(Layer.build(blank)), { _tag: "SettingsError", setting: "jobs" })
    })
  )

  scoped("come from a Config with layerConfig", () =>
    Effect.gen(function* () {
      const layer = Jobsd.layerConfig({
        jobs: [A],
        workers: Config.integer("WORKERS"),
        pollInterval: Config.duration("POLL"),
        tablePrefix: "configured",
        queues: { mail: 3 }
      }).pipe(Layer.provide(ALive), Layer.provide(memory))
      const provider = (entries: ReadonlyArray<readonly [string, string]>) =>
        Layer.setConfigProvider(ConfigProvider.fromMap(new Map(entries)))
      const context = yield* Layer.build(
        Layer.provide(
          layer,
          provider([
            ["WORKERS", "7"],
            ["POLL", "100 millis"]
          ])
        )
      )
      const instance = yield* Effect.provide(Jobsd.instance, context)
      assert.deepStrictEqual(instance.queues, { default: 7, mail: 3 })
      const missing = yield* Effect.flip(Layer.build(Layer.provide(layer, provider([["WORKERS", "7"]]))))
      assert.include(String(missing), "POLL")
      const invalid = yield* Effect.flip(
        Layer.build(
          Layer.provide(
            layer,
            provider([
              ["WORKERS", "0"],
              ["POLL", "1 second"]
            ])
          )
        )
      )
      assert.deepInclude(invalid, { _tag: "SettingsError", setting: "workers" })
    })
  )

  it("have defaults that hold", () => {
    const settings = resolve({})
    assert.isTrue(settings._tag === "Right")
    if (settings._tag === "Left") return
    assert.deepInclude(settings.right, {
      pollMillis: 5000,
      sweepMillis: 10_000,
      leaseMillis: 30_000,
      heartbeatMillis: 6000,
      trustMillis: 18_000
    })
    assert.deepStrictEqual([...settings.right.queues], [["default", 10]])
    assert.strictEqual(defaults.payloadLimit, 1024 * 1024)
  })
})

describe("a backoff", () => {
  const delays = (backoff: Schedule.Schedule<unknown, unknown>, steps = 5) =>
    Effect.map(replay(backoff, steps, "seed"), (replayed) => replayed.delays)

  effect("is replayed to the delays that Effect would wait", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* delays(Schedule.exponential("1 second")), [1000, 2000, 4000, 8000, 16_000])
      assert.deepStrictEqual(yield* delays(Schedule.fibonacci("1 second")), [1000, 1000, 2000, 3000, 5000])
      assert.deepStrictEqual(yield* delays(Schedule.spaced("3 seconds")), [3000, 3000, 3000, 3000, 3000])
      assert.deepStrictEqual(yield* delays(Schedule.intersect(Schedule.spaced("3 seconds"), Schedule.recurs(2))), [3000, 3000])
      assert.deepStrictEqual(yield* delays(Schedule.spaced("2 days"), 2), [86_400_000, 86_400_000])
    })
  )

  effect("with jitter is the same for the same run, and another for another", () =>
    Effect.gen(function* () {
      const jittered = Schedule.jittered(Schedule.exponential("1 second"))
      const one = yield* replay(jittered, 8, "run 1")
      assert.deepStrictEqual(yield* replay(jittered, 8, "run 1"), one)
      assert.notDeepEqual(yield* replay(jittered, 8, "run 2"), one)
    })
  )

  effect("repeats its last delay after 32 steps, and ends the retries where it ends", () =>
    Effect.gen(function* () {
      const replayed = yield* replay(Schedule.linear("1 second"), 100, "seed")
      assert.lengthOf(replayed.delays, 32)
      assert.strictEqual(delayAfter(replayed, 32), 32_000)
      assert.strictEqual(delayAfter(replayed, 1000), 32_000)
      const ending = yield* replay(Schedule.recurs(2), 32, "seed")
      assert.deepStrictEqual([delayAfter(ending, 2), delayAfter(ending, 3)], [0, null])
    })
  )

  effect("by default grows from a second, jittered, to five minutes", () =>
    Effect.gen(function* () {
      const { delays, ends } = yield* replay(defaults.backoff, 32, "seed")
      assert.isFalse(ends)
      for (const [i, delay] of delays.entries()) {
        const middle = Math.min(1000 * 2 ** i, Duration.toMillis("5 minutes"))
        assert.isTrue(delay >= middle * 0.8 && delay <= middle * 1.2, `${i}: ${delay}`)
      }
    })
  )
})
