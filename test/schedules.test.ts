/** Chains: the runs that follow from one createRun with a schedule. */
import { assert } from "@effect/vitest"
import { DateTime, Effect, Schedule } from "effect"
import { Job, JobSchedule } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const Often = JobSchedule.every("Often", "200 millis")
const Hourly = JobSchedule.cron("Hourly", "@hourly")
const hour = 3_600_000

onEveryDatabase("a scheduled run", (it) => {
  it.scoped("first runs at the schedule's next moment after the delay", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const Clean = Job.make("Clean")
      const plain = yield* jobsd.getRunState(yield* jobsd.createRun(Clean, undefined, { schedule: Hourly }))
      assert.strictEqual(plain.runAt.epochMillis % hour, 0)
      assert.isTrue(plain.runAt.epochMillis > plain.createdAt.epochMillis && plain.runAt.epochMillis - plain.createdAt.epochMillis <= hour)
      const delayed = yield* jobsd.getRunState(yield* jobsd.createRun(Clean, undefined, { schedule: Hourly, delay: "2 hours" }))
      const wait = delayed.runAt.epochMillis - delayed.createdAt.epochMillis
      assert.isTrue(wait > 2 * hour && wait <= 3 * hour && delayed.runAt.epochMillis % hour === 0)
      const at = DateTime.unsafeMake("2030-05-05T10:20:00Z")
      const moment = yield* jobsd.getRunState(yield* jobsd.createRun(Clean, undefined, { schedule: Hourly, runAt: at }))
      assert.strictEqual(DateTime.formatIso(moment.runAt), "2030-05-05T11:00:00.000Z")
    })
  )

  it.scoped("is followed by one row with fresh counters, until the limit of successes; failures do not count", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Moody = Job.make("Moody", { retriesOnError: 0 })
      // succeeds every other time
      const live = Moody.toLayer((_, { occurrence }) => (occurrence % 2 === 0 ? Effect.fail("bad mood") : Effect.void))
      const jobsd = yield* world.start(live, { jobs: [Moody], schedules: [Often] })
      const id = yield* jobsd.createRun(Moody, undefined, { schedule: Often, limit: 2, unique: "moody" })
      yield* eventually(jobsd.getRunState(id), (state) => state.successCount === 2)
      const rows = yield* world.rows("runs", "ORDER BY occurrence")
      assert.deepStrictEqual(
        rows.map((row) => [row.origin_id, row.occurrence, row.state, row.errors, row.success_count, row.name, row.unique_key].map(String)),
        [0, 1, 2, 3].map((occurrence) => {
          const failed = occurrence % 2 === 0
          const successes = Math.ceil(occurrence / 2)
          return [id, occurrence, failed ? 3 : 2, failed ? 1 : 0, successes, "moody", null].map(String)
        })
      )
    })
  )

  it.scoped("follows from the moment its predecessor was due, and skips what a long handler ran over", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Long", Effect.sleep("500 millis"))
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Often] })
      const id = yield* jobsd.createRun(job, undefined, { schedule: Often, limit: 3 })
      yield* eventually(jobsd.getRunState(id), (state) => state.successCount === 3)
      const due = calls.map((run) => run.runAt.epochMillis)
      // 500 ms of work on a rule of 200 ms: the next moment is found from the end of the work, and never piles up
      for (const [i, moment] of due.entries()) {
        if (i > 0) assert.isTrue(moment - due[i - 1]! >= 700 && moment - due[i - 1]! < 1200, `${moment - due[i - 1]!}`)
      }
    })
  )

  it.scoped("follows from there too when it had to be tried again, or was taken over", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const { job, live } = counted("Again", Effect.fail("no"))
      const every = JobSchedule.every("Every hour", "1 hour")
      const create = client.createRun(job, undefined, { schedule: every, retriesOnError: 1, backoff: Schedule.spaced("100 millis") })
      const retried = yield* create
      const crashed = yield* create
      yield* world.unsafe("UPDATE @_runs SET run_at = run_at - 3600000")
      const due = new Map((yield* world.rows("runs")).map((row) => [row.id, Number(row.run_at)]))
      // as a claim of somebody who is gone
      yield* world.unsafe(`UPDATE @_runs SET state = 1, claimed_at = 1, owner = origin_id WHERE id = '${crashed}'`)
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [every] })
      for (const id of [retried, crashed]) {
        const next = yield* eventually(jobsd.getRunState(id), ({ occurrence }) => occurrence === 1)
        assert.strictEqual(next.runAt.epochMillis, due.get(id)! + hour)
        const [row] = yield* world.rows("runs", `WHERE id = '${id}'`)
        assert.isAbove(Number(row?.run_at), due.get(id)!)
      }
    })
  )

  it.scoped("is created within the caller's transaction, whose connection may be the only one", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const { sql } = yield* world.apart
      const jobsd = yield* world.on(sql).client()
      const create = jobsd.createRun(Job.make("Clean"), undefined, { schedule: Hourly })
      const both = Effect.flatMap(create, (id) => Effect.zip(jobsd.getRunState(id), jobsd.getRunState(id)))
      // as many at once as there are connections
      const states = yield* Effect.replicateEffect(sql.withTransaction(both), 6, { concurrency: "unbounded" })
      for (const [state] of states) assert.strictEqual(state.runAt.epochMillis % hour, 0)
      yield* Effect.flip(sql.withTransaction(Effect.zipRight(create, Effect.fail("no"))))
      assert.lengthOf(yield* world.rows("runs"), 6)
    })
  )

  it.scoped("runs once, at once, after a downtime, and then goes on from now", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const { calls, job, live } = counted("Overdue")
      const id = yield* client.createRun(job, undefined, { schedule: Hourly, limit: 100 })
      yield* world.unsafe(`UPDATE @_runs SET run_at = run_at - ${50 * hour}`)
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Hourly] })
      const state = yield* eventually(jobsd.getRunState(id), (state) => state.occurrence === 1)
      assert.deepInclude(state, { status: "ready", successCount: 1 })
      const wait = state.runAt.epochMillis - state.createdAt.epochMillis
      assert.isTrue(wait > 0 && wait <= hour)
      assert.lengthOf(calls, 1)
    })
  )

  it.scoped("whose rule breaks later ends its chain with a logged error, and its run is settled", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      let asked = 0
      const Fragile = JobSchedule.make("Fragile", (after) => {
        if (asked++ > 0) throw new Error("no more moments")
        return DateTime.add(after, { millis: 50 })
      })
      const { job, live } = counted("Chain")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Fragile] })
      const id = yield* jobsd.createRun(job, undefined, { schedule: Fragile, unique: "chain" })
      yield* reaches(jobsd, id, "succeeded")
      assert.lengthOf(yield* world.rows("runs"), 1)
      assert.isTrue(world.logs.some(({ level, message }) => level === "ERROR" && message.includes("no more moments")))
      // the key is free again
      assert.notStrictEqual(yield* jobsd.createRun(job, undefined, { unique: "chain" }), id)
    })
  )

  it.scoped("is left to instances that know the schedule", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Picky")
      const ignorant = yield* world.start(live, { jobs: [job] })
      const id = yield* ignorant.createRun(job, undefined, { schedule: Often, limit: 1 })
      yield* reaches(ignorant, yield* ignorant.createRun(job, undefined, { delay: "400 millis" }), "succeeded")
      assert.strictEqual((yield* ignorant.getRunState(id)).status, "ready")
      const knowing = yield* world.start(live, { jobs: [job], schedules: [Often] })
      const state = yield* reaches(knowing, id, "succeeded")
      assert.strictEqual(state.startedBy, (yield* knowing.instance).id)
    })
  )
})
