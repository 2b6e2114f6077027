/** What createRun can be told, and what it refuses. */
import { assert } from "@effect/vitest"
import { DateTime, Duration, Effect, Either, Schedule, Schema } from "effect"
import { Job, JobSchedule, type Jobsd } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, makeWorld, reaches } from "./support/world.js"

const Plain = Job.make("Plain", { payload: { text: Schema.String } })

onEveryDatabase("createRun", (it) => {
  it.scoped("delays a run precisely, however long the poll interval is", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Delayed")
      const jobsd = yield* world.start(live, { jobs: [job], pollInterval: "1 minute" })
      const ids = yield* Effect.forEach([700, 300], (millis) => jobsd.createRun(job, undefined, { delay: millis }))
      yield* Effect.forEach(ids, (id) => reaches(jobsd, id, "succeeded"))
      for (const { createdAt, runAt, startedAt } of calls) {
        assert.include([300, 700], runAt.epochMillis - createdAt.epochMillis)
        const late = startedAt.epochMillis - runAt.epochMillis
        assert.isAtLeast(late, 0)
        // far below the poll interval, on a busy machine too
        assert.isBelow(late, 2000)
      }
    })
  )

  it.scoped("takes a moment to run at, in the past too", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("At")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const past = DateTime.unsafeMake("2020-01-01T00:00:00Z")
      const state = yield* reaches(jobsd, yield* jobsd.createRun(job, undefined, { runAt: past }), "succeeded")
      assert.strictEqual(state.runAt.epochMillis, past.epochMillis)
      const future = DateTime.unsafeMake("2999-01-01T00:00:00Z")
      const later = yield* jobsd.getRunState(yield* jobsd.createRun(job, undefined, { runAt: future, delay: "1 minute" }))
      assert.deepInclude(later, { status: "ready", startedAt: null })
      assert.strictEqual(later.runAt.epochMillis, future.epochMillis + 60_000)
      // as adding a duration to a moment leads to
      const between = yield* jobsd.getRunState(yield* jobsd.createRun(job, undefined, { runAt: DateTime.unsafeMake(9e11 + 0.4) }))
      assert.strictEqual(between.runAt.epochMillis, 9e11)
    })
  )

  it.scoped("merges the policies of the instance, the job and the run, the innermost winning", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client({ timeout: "1 minute", retriesOnError: 7, retriesOnCrash: Number.POSITIVE_INFINITY })
      const Own = Job.make("Own", { retriesOnError: 8, retriesOnTimeout: 9, queue: "own", priority: 1 })
      const policy = (id: string) =>
        Effect.map(world.rows("runs", `WHERE id = '${id}'`), ([row]) => ({
          timeout: row?.timeout_ms === null ? null : Number(row?.timeout_ms),
          errors: row?.max_errors,
          timeouts: row?.max_timeouts,
          crashes: row?.max_crashes,
          queue: row?.queue,
          priority: row?.priority,
          backoff: row?.backoff
        }))
      const plain = { timeout: 60_000, errors: 7, timeouts: 3, crashes: null, queue: "default", priority: 5, backoff: null }
      assert.deepStrictEqual(yield* policy(yield* jobsd.createRun(Plain, { text: "" })), plain)
      const own = { ...plain, errors: 8, timeouts: 9, queue: "own", priority: 1 }
      assert.deepStrictEqual(yield* policy(yield* jobsd.createRun(Own, undefined)), own)
      const id = yield* jobsd.createRun(Own, undefined, {
        timeout: Number.POSITIVE_INFINITY,
        retriesOnError: 0,
        retriesOnCrash: 1,
        queue: "run",
        priority: 9,
        backoff: Schedule.intersect(Schedule.spaced("2 seconds"), Schedule.recurs(2))
      })
      assert.deepStrictEqual(yield* policy(id), {
        timeout: null,
        errors: 0,
        timeouts: 9,
        crashes: 1,
        queue: "run",
        priority: 9,
        backoff: `{"delays":[2000,2000],"ends":true}`
      })
    })
  )

  it.scoped("creates runs of jobs that this instance does not handle", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Known")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const id = yield* jobsd.createRun(Plain, { text: "for others" })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
      assert.strictEqual((yield* jobsd.getRunState(id)).status, "ready")
    })
  )

  it.scoped("stores payloads of every kind and size up to payloadLimit", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Any = Job.make("Any", { payload: Schema.Unknown, success: Schema.Unknown })
      const jobsd = yield* world.start(
        Any.toLayer((payload) => Effect.succeed(payload)),
        { jobs: [Any], payloadLimit: 300_000 }
      )
      const payloads = [null, true, 0, -1.5, "", "ü".repeat(140_000), [], {}, { a: [{ b: "\u0001\u007F" }] }]
      for (const payload of payloads) {
        const state = yield* reaches(jobsd, yield* jobsd.createRun(Any, payload), "succeeded", "failed")
        assert.deepStrictEqual([state.status, state.result], ["succeeded", payload])
      }
      const tooLarge = yield* Effect.flip(jobsd.createRun(Any, "ü".repeat(150_000)))
      assert.strictEqual(tooLarge._tag, "PayloadError")
      assert.include(tooLarge.message, "payloadLimit is 300000")
    })
  )

  it.scoped("refuses a payload that does not fit, and says where and not what", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const error = yield* Effect.flip(jobsd.createRun(Plain, { text: 42 } as never))
      assert.strictEqual(error._tag, "PayloadError")
      assert.include(error.message, "at text: expected string")
      assert.notInclude(error.message, "42")
      assert.lengthOf(yield* world.rows("runs"), 0)
    })
  )

  it.scoped("refuses options that make no sense, with the option's name", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const Hourly = JobSchedule.cron("Hourly", "@hourly")
      const wrong: ReadonlyArray<readonly [string, object]> = [
        ["priority", { priority: 10 }],
        ["priority", { priority: 1.5 }],
        ["queue", { queue: "" }],
        ["queue", { queue: "mail " }],
        ["queue", { queue: "x".repeat(129) }],
        ["delay", { delay: Duration.infinity }],
        ["delay", { delay: "soon" }],
        ["timeout", { timeout: 0 }],
        ["retriesOnError", { retriesOnError: -1 }],
        ["retriesOnTimeout", { retriesOnTimeout: 1.5 }],
        ["retriesOnCrash", { retriesOnCrash: Number.NaN }],
        ["unique", { unique: "" }],
        ["unique", { unique: "a\0b" }],
        ["unique", { unique: "\uD800" }],
        ["limit", { limit: 2 }],
        ["limit", { schedule: Hourly, limit: 0 }],
        ["limit", { schedule: Hourly, limit: 1.5 }]
      ]
      for (const [option, options] of wrong) {
        const error = yield* Effect.flip(jobsd.createRun(Plain, { text: "" }, options as Jobsd.Jobsd.CreateRunOptions))
        assert.deepInclude(error, { _tag: "OptionError", option }, JSON.stringify(options))
      }
      const nameless = yield* Effect.either(jobsd.createRun(Job.make(""), undefined))
      assert.isTrue(Either.isLeft(nameless))
      assert.lengthOf(yield* world.rows("runs"), 0)
    })
  )

  it.scoped("refuses a schedule whose rule stands still", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const Still = JobSchedule.make("Still", (after) => after)
      const error = yield* Effect.flip(jobsd.createRun(Plain, { text: "" }, { schedule: Still }))
      assert.deepInclude(error, { _tag: "ScheduleError", schedule: "Still" })
    })
  )
})
