/** What the tests of the Go original show, on every database. */
import { assert } from "@effect/vitest"
import { Deferred, Duration, Effect, Layer, Schema } from "effect"
import { Job, JobSchedule, type Run } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const EverySecond = JobSchedule.every("EverySecond", "1 second")

onEveryDatabase("the original's scenarios", (it) => {
  it.scoped("a run is executed once, within a second of its creation", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Once")
      const jobsd = yield* world.start(live, { jobs: [job], pollInterval: "5 seconds" })
      const [took] = yield* Effect.timed(Effect.flatMap(jobsd.createRun(job, undefined), (id) => reaches(jobsd, id, "succeeded")))
      assert.isBelow(Duration.toMillis(took), 1000)
      assert.lengthOf(calls, 1)
    })
  )

  it.scoped("20 runs are executed within 3 seconds", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Many")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const [took] = yield* Effect.timed(
        Effect.gen(function* () {
          const ids = yield* Effect.replicateEffect(jobsd.createRun(job, undefined), 20)
          yield* Effect.forEach(ids, (id) => reaches(jobsd, id, "succeeded"))
        })
      )
      assert.isBelow(Duration.toMillis(took), 3000)
      assert.lengthOf(calls, 20)
    })
  )

  it.scoped("an error is retried once, and then the run succeeds", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const FailOnce = Job.make("FailOnce", { retriesOnError: 1 })
      const jobsd = yield* world.start(
        FailOnce.toLayer((_, run) => (run.attempt === 1 ? Effect.fail("not yet") : Effect.void)),
        { jobs: [FailOnce] }
      )
      const id = yield* jobsd.createRun(FailOnce, undefined)
      const state = yield* reaches(jobsd, id, "succeeded", "failed")
      assert.deepInclude(state, { status: "succeeded", attempt: 2, retriesOnErrorCount: 1, completedError: null })
    })
  )

  it.scoped("a timeout is retried", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const SlowOnce = Job.make("SlowOnce", { timeout: "100 millis", retriesOnTimeout: 1 })
      const jobsd = yield* world.start(
        SlowOnce.toLayer((_, run) => (run.attempt === 1 ? Effect.never : Effect.void)),
        { jobs: [SlowOnce] }
      )
      const id = yield* jobsd.createRun(SlowOnce, undefined)
      const state = yield* reaches(jobsd, id, "succeeded", "failed")
      assert.deepInclude(state, { status: "succeeded", attempt: 2, retriesOnTimeoutCount: 1 })
    })
  )

  for (const limit of [1, 3]) {
    it.scoped(`a schedule with limit ${limit} runs exactly that often, and on time`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const { calls, job, live } = counted("Tick")
        const jobsd = yield* world.start(live, { jobs: [job], schedules: [EverySecond], pollInterval: "5 seconds" })
        const id = yield* jobsd.createRun(job, undefined, { schedule: EverySecond, limit })
        const state = yield* eventually(jobsd.getRunState(id), (state) => state.successCount === limit)
        assert.deepInclude(state, { status: "succeeded", originId: id, occurrence: limit - 1 })
        assert.lengthOf(yield* world.rows("runs"), limit)
        // a second from due moment to due moment, whatever the attempts took
        const due = calls.map((run) => run.runAt.epochMillis)
        assert.deepStrictEqual(
          due,
          due.map((_, i) => due[0]! + i * 1000)
        )
        for (const run of calls) assert.isBelow(run.startedAt.epochMillis - run.runAt.epochMillis, 500)
        assert.lengthOf(calls, limit)
      })
    )
  }

  it.scoped("10 instances that ask for the same unique run execute it once", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("UniqueJob", Effect.sleep("50 millis"))
      const instances = yield* Effect.replicateEffect(
        Effect.flatMap(world.apart, ({ start }) => start(live, { jobs: [job] })),
        10
      )
      const ids = yield* Effect.forEach(
        instances,
        (jobsd) => jobsd.createRun(job, undefined, { unique: "GlobalUniqueJob1", delay: "300 millis" }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(ids).size, 1)
      yield* reaches(instances[0]!, ids[0]!, "succeeded")
      assert.lengthOf(yield* world.rows("runs"), 1)
      assert.lengthOf(calls, 1)
    })
  )

  it.scoped("5 instances with a unique schedule and limit 2 execute it twice", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("UniqueSchedule")
      const instances = yield* Effect.replicateEffect(
        Effect.flatMap(world.apart, ({ start }) => start(live, { jobs: [job], schedules: [EverySecond] })),
        5
      )
      const ids = yield* Effect.forEach(
        instances,
        (jobsd) => jobsd.createRun(job, undefined, { unique: "TheOne", schedule: EverySecond, limit: 2 }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(ids).size, 1)
      yield* eventually(instances[0]!.getRunState(ids[0]!), (state) => state.successCount === 2)
      assert.lengthOf(yield* world.rows("runs"), 2)
      assert.lengthOf(calls, 2)
    })
  )

  it.scoped("10 one-worker instances share 30 runs", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Share", Effect.sleep("300 millis"))
      const instances = yield* Effect.replicateEffect(
        Effect.flatMap(world.apart, ({ start }) => start(live, { jobs: [job], workers: 1 })),
        10
      )
      const ids = yield* Effect.replicateEffect(instances[0]!.createRun(job, undefined), 30)
      yield* Effect.forEach(ids, (id) => reaches(instances[0]!, id, "succeeded"))
      assert.lengthOf(calls, 30)
      const shares = new Map<string, number>()
      for (const { startedBy } of calls) shares.set(startedBy, (shares.get(startedBy) ?? 0) + 1)
      assert.strictEqual(shares.size, 10, `shares: ${[...shares.values()]}`)
    })
  )

  it.scoped("200 runs created by 20 instances are executed once each", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Two hundred")
      const instances = yield* Effect.replicateEffect(
        Effect.flatMap(world.apart, ({ start }) => start(live, { jobs: [job], workers: 3 })),
        20
      )
      const ids = yield* Effect.flatMap(
        Effect.forEach(instances, (jobsd) => Effect.replicateEffect(jobsd.createRun(job, undefined), 10), {
          concurrency: "unbounded"
        }),
        (created) => Effect.succeed(created.flat())
      )
      yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === 200, "20 seconds")
      assert.sameMembers(
        calls.map((run) => run.id),
        ids
      )
      assert.strictEqual(new Set(ids).size, 200)
    })
  )

  it.scoped("a run whose instance dies in the middle is finished by another", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Orphan")
      yield* world.migrate
      const jobsd = yield* world.client()
      const id = yield* jobsd.createRun(job, undefined)
      yield* world.orphan
      const instance = yield* world.start(live, { jobs: [job] })
      const state = yield* reaches(instance, id, "succeeded")
      assert.deepInclude(state, { attempt: 2, crashCount: 1, startedBy: (yield* instance.instance).id })
      assert.lengthOf(calls, 1)
      assert.deepInclude((yield* world.rows("attempts"))[0], { run_id: id, outcome: "crash" })
      assert.strictEqual((yield* instance.instance).counts.rescued, 1)
    })
  )

  it.scoped("a handler is told about its run", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Told = Job.make("Told", { payload: { text: Schema.String }, queue: "told", retriesOnError: 4 })
      const told = yield* Deferred.make<Run.RunInfo<{ readonly text: string }>>()
      const live = Told.toLayer((_, run) => Deferred.succeed(told, run))
      const jobsd = yield* world.start(live, { jobs: [Told], schedules: [EverySecond], queues: { told: 1 } })
      const { id: me } = yield* jobsd.instance
      const id = yield* jobsd.createRun(
        Told,
        { text: "hello" },
        { schedule: EverySecond, limit: 1, unique: "told", timeout: "1 minute", retriesOnTimeout: Number.POSITIVE_INFINITY }
      )
      const run = yield* Deferred.await(told)
      assert.deepInclude(run, {
        id,
        originId: id,
        name: "told",
        job: "Told",
        queue: "told",
        schedule: "EverySecond",
        attempt: 1,
        occurrence: 0,
        payload: { text: "hello" },
        startedBy: me,
        successCount: 0,
        successLimit: 1,
        retriesOnErrorCount: 0,
        retriesOnErrorLimit: 4,
        retriesOnTimeoutCount: 0,
        retriesOnTimeoutLimit: Number.POSITIVE_INFINITY,
        crashCount: 0,
        retriesOnCrashLimit: 2,
        createdBy: me
      })
      assert.strictEqual(Duration.toMillis(run.timeout), 60_000)
      assert.strictEqual(run.timeoutAt?.epochMillis, run.startedAt.epochMillis + 60_000)
      const age = run.startedAt.epochMillis - run.createdAt.epochMillis
      assert.isAtLeast(age, 900)
      assert.isBelow(age, 3000)
    })
  )

  it.scoped("a timeout interrupts the handler", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const interrupted = yield* Deferred.make<void>()
      const Slow = Job.make("Slow", { timeout: "100 millis", retriesOnTimeout: 0 })
      const live = Slow.toLayer(() => Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined)))
      const jobsd = yield* world.start(Layer.fresh(live), { jobs: [Slow] })
      const id = yield* jobsd.createRun(Slow, undefined)
      yield* Deferred.await(interrupted)
      const state = yield* reaches(jobsd, id, "failed")
      assert.strictEqual(state.retriesOnTimeoutCount, 1)
      assert.include(state.completedError ?? "", "100 milliseconds")
    })
  )
})
