/** Cancelling a run is interrupting its fiber, and ends its chain. */
import { assert } from "@effect/vitest"
import { Deferred, Duration, Effect, Layer, Schema } from "effect"
import { Job, JobSchedule } from "jobsd"
import { make as makeFaulty } from "./faults/support/faultyClient.js"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const Often = JobSchedule.every("Often", "100 millis")

onEveryDatabase("cancelling", (it) => {
  it.scoped("a waiting run ends it at once: it never starts, and its key is free", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Waiting")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const id = yield* jobsd.createRun(job, undefined, { delay: "300 millis", unique: "key" })
      assert.strictEqual(yield* jobsd.cancel(id), "cancelled")
      const state = yield* jobsd.getRunState(id)
      assert.deepInclude(state, { status: "cancelled", startedAt: null, completedError: null, name: "key" })
      assert.isNotNull(state.completedAt)
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined, { delay: "400 millis", unique: "key" }), "succeeded")
      assert.lengthOf(calls, 1)
      assert.strictEqual(yield* jobsd.cancel(id), "finished")
    })
  )

  it.scoped("a run that is running here interrupts it, and its finalizers run", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const started = yield* Deferred.make<void>()
      const Endless = Job.make("Endless")
      const live = Endless.toLayer(() =>
        Effect.acquireRelease(Deferred.succeed(started, undefined), () => Effect.sync(() => events.push("released"))).pipe(
          Effect.zipRight(Effect.never),
          Effect.onInterrupt(() => Effect.sync(() => events.push("interrupted")))
        )
      )
      const jobsd = yield* world.start(live, { jobs: [Endless] })
      const id = yield* jobsd.createRun(Endless, undefined, { unique: "key" })
      yield* Deferred.await(started)
      assert.strictEqual(yield* jobsd.cancel(id), "requested")
      yield* reaches(jobsd, id, "cancelled")
      assert.deepStrictEqual(events, ["interrupted", "released"])
      assert.notStrictEqual(yield* jobsd.createRun(Endless, undefined, { unique: "key", delay: "1 hour" }), id)
      assert.strictEqual((yield* jobsd.instance).counts.cancelled, 1)
      assert.strictEqual(yield* jobsd.cancel(id), "finished")
    })
  )

  it.scoped("is told as such when the answer to it was lost, and the run is over before it is asked for again", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Endless = Job.make("Endless")
      const instance = yield* world.start(
        Endless.toLayer(() => Effect.never),
        { jobs: [Endless], leaseDuration: "3 seconds" }
      )
      const faulty = makeFaulty((yield* world.apart).sql)
      const client = yield* world.on(faulty.sql).client()
      const waits = yield* instance.createRun(Endless, undefined, { delay: "1 hour" })
      faulty.arm({ at: "cancel", when: "after", nth: 1, act: { do: "lose" } })
      assert.strictEqual(yield* client.cancel(waits), "cancelled")
      const runs = yield* instance.createRun(Endless, undefined)
      yield* reaches(instance, runs, "running")
      faulty.arm({ at: "request cancel", when: "after", nth: 1, act: { do: "lose" } })
      // longer than the heartbeat takes that hears of it
      faulty.arm({ at: "request cancel", when: "before", nth: 2, act: { do: "delay", millis: 2500 } })
      assert.strictEqual(yield* client.cancel(runs), "cancelled")
      assert.strictEqual((yield* client.getRunState(runs)).status, "cancelled")
      assert.strictEqual(faulty.struck(), 3)
    })
  )

  it.scoped("a run that is running elsewhere is heard of with the next heartbeat", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const started = yield* Deferred.make<void>()
      const interrupted = yield* Deferred.make<number>()
      const faulty = makeFaulty((yield* world.apart).sql)
      const heartbeats = () => faulty.seen.filter(({ kind }) => kind === "heartbeat").length
      const Endless = Job.make("Endless")
      const live = Endless.toLayer(() =>
        Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.never),
          Effect.onInterrupt(() => Effect.suspend(() => Deferred.succeed(interrupted, heartbeats())))
        )
      )
      // a heartbeat each second, and nothing else that could hear of it
      const rarely = { pollInterval: "1 hour", timeoutCheck: "1 hour", hints: false, leaseDuration: "5 seconds" } as const
      const instance = yield* world.on(faulty.sql).start(live, { jobs: [Endless], ...rarely })
      const id = yield* instance.createRun(Endless, undefined)
      yield* Deferred.await(started)
      const client = yield* (yield* world.apart).client()
      const before = heartbeats()
      assert.strictEqual(yield* client.cancel(id), "requested")
      const [took, after] = yield* Effect.timed(Deferred.await(interrupted))
      // one that was under way may have looked too early; the next one may not
      assert.isAtMost(after - before, 1)
      assert.isBelow(Duration.toMillis(took), 10_000)
      yield* reaches(client, id, "cancelled")
    })
  )

  it.scoped("a run that has succeeded changes nothing", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Done")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const id = yield* jobsd.createRun(job, undefined)
      yield* reaches(jobsd, id, "succeeded")
      const before = yield* world.rows("runs")
      const client = yield* world.client()
      for (const asked of [jobsd, client]) assert.strictEqual(yield* asked.cancel(id), "finished")
      assert.deepStrictEqual(yield* world.rows("runs"), before)
      assert.strictEqual((yield* jobsd.instance).counts.cancelled, 0)
    })
  )

  it.scoped("runs as they end leaves each of them cancelled or succeeded, and what was told is so", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Short = Job.make("Short", { payload: Schema.Number })
      const began = new Set<string>()
      const ended = new Set<string>()
      const live = Short.toLayer((millis, { id }) =>
        Effect.sync(() => began.add(id)).pipe(Effect.zipRight(Effect.sleep(millis)), Effect.zipRight(Effect.sync(() => ended.add(id))))
      )
      const jobsd = yield* (yield* world.apart).start(live, { jobs: [Short], workers: 20 })
      const client = yield* (yield* world.apart).client()
      const count = 120
      // the handlers take up to 150 ms, and are cancelled up to 150 ms after they began, some of them while they wait for a worker
      const outcomes = yield* Effect.forEach(
        Array.from({ length: count }, (_, i) => i),
        (i) =>
          Effect.gen(function* () {
            const id = yield* jobsd.createRun(Short, (i * 37) % 150)
            if (i % 3 > 0) {
              yield* eventually(
                Effect.sync(() => began.has(id)),
                (begun) => begun
              )
            }
            yield* Effect.sleep((i * 53) % 150)
            const told = yield* (i % 2 === 0 ? jobsd : client).cancel(id)
            return { id, told }
          }),
        { concurrency: 40 }
      )
      const ends = yield* Effect.forEach(outcomes, ({ id, told }) =>
        Effect.map(reaches(jobsd, id, "cancelled", "succeeded", "failed"), ({ status }) => ({ id, told, status }))
      )
      for (const { id, status, told } of ends) {
        assert.include(["cancelled", "succeeded"], status)
        if (told === "cancelled") assert.deepStrictEqual([status, began.has(id)], ["cancelled", false])
        if (told === "finished") assert.strictEqual(status, "succeeded")
        if (status === "succeeded") assert.isTrue(ended.has(id))
      }
      const counts = (yield* jobsd.instance).counts
      const by = (wanted: string) => ends.filter(({ status }) => status === wanted).length
      assert.strictEqual(counts.succeeded, by("succeeded"))
      // it was a race, and nobody won all of it
      assert.isAbove(by("succeeded"), 0)
      assert.isAbove(by("cancelled"), 0)
      assert.includeMembers(
        ends.map(({ told }) => told),
        ["requested", "finished"]
      )
      // and it stays so: nothing is left to be worked on
      assert.lengthOf(yield* world.rows("runs", `WHERE state IN (2, 4)`), count)
    })
  )

  it.scoped("a chain, by any id of it, stops it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Chain")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Often] })
      const id = yield* jobsd.createRun(job, undefined, { schedule: Often })
      yield* eventually(jobsd.getRunState(id), (state) => state.successCount >= 2)
      yield* jobsd.cancel(id)
      yield* reaches(jobsd, id, "cancelled")
      const done = calls.length
      yield* Effect.sleep("400 millis")
      assert.lengthOf(calls, done)
      assert.lengthOf(yield* world.rows("runs", "WHERE state IN (0, 1)"), 0)
    })
  )

  it.scoped("a run that is just failing leaves it cancelled instead of retried", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const started = yield* Deferred.make<void>()
      const Failing = Job.make("Failing")
      const live = Failing.toLayer(() =>
        Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.sleep("300 millis")),
          Effect.zipRight(Effect.fail("no")),
          Effect.uninterruptible
        )
      )
      const jobsd = yield* world.start(live, { jobs: [Failing] })
      const id = yield* jobsd.createRun(Failing, undefined)
      yield* Deferred.await(started)
      yield* jobsd.cancel(id)
      const state = yield* reaches(jobsd, id, "cancelled", "succeeded", "failed")
      assert.strictEqual(state.status, "cancelled")
    })
  )

  it.scoped("an id that nobody knows is an error", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(Layer.empty, { jobs: [] })
      const id = "0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10" as Parameters<typeof jobsd.cancel>[0]
      assert.deepInclude(yield* Effect.flip(jobsd.cancel(id)), { _tag: "RunNotFound", id })
    })
  )
})
