/** What is known about an instance, and what becomes of it. */
import { hostname } from "node:os"
import { assert } from "@effect/vitest"
import { Effect, Layer, Schedule, Schema } from "effect"
import { Job, JobSchedule } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("an instance", (it) => {
  it.scoped("is registered at its start, and signs off at its end", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Known")
      const Daily = JobSchedule.cron("Daily", "@daily")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Daily], workers: 4, queues: { mail: 2 } })
      const me = yield* jobsd.instance
      assert.deepInclude(me, {
        host: hostname(),
        pid: process.pid,
        status: "alive",
        jobs: ["Known"],
        schedules: ["Daily"],
        queues: { default: 4, mail: 2 },
        shutdownAt: null
      })
      yield* jobsd.stop
      const [row] = yield* world.rows("instances_view")
      assert.deepInclude(row, { id: me.id, status: "stopped", host: hostname() })
      assert.isNotNull(row?.stopped_at)
    })
  )

  it.scoped("counts what it does, and its row has the same counts at the end", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Way = Job.make("Way", {
        payload: { way: Schema.Literal("ok", "error", "retry", "timeout") },
        retriesOnError: 1,
        retriesOnTimeout: 0,
        timeout: "100 millis",
        backoff: Schedule.spaced("1 millis")
      })
      const live = Way.toLayer(({ way }, { attempt }) =>
        way === "timeout" ? Effect.never : way === "error" || (way === "retry" && attempt === 1) ? Effect.fail("no") : Effect.void
      )
      const Once = JobSchedule.every("Once", "50 millis")
      const jobsd = yield* world.start(live, { jobs: [Way], schedules: [Once] })
      const ids = yield* Effect.forEach(["ok", "error", "retry", "timeout"] as const, (way) => jobsd.createRun(Way, { way }))
      yield* Effect.forEach(ids, (id) => reaches(jobsd, id, "succeeded", "failed"))
      const chain = yield* jobsd.createRun(Way, { way: "ok" }, { schedule: Once, limit: 2 })
      yield* eventually(jobsd.getRunState(chain), (state) => state.successCount === 2)
      const expected = {
        started: 8,
        succeeded: 4,
        errors: 3,
        timedOut: 1,
        cancelled: 0,
        rescheduled: 3,
        released: 0,
        rescued: 0
      }
      yield* eventually(jobsd.instance, ({ counts }) => counts.succeeded === 4)
      assert.deepStrictEqual((yield* jobsd.instance).counts, expected)
      yield* jobsd.stop
      const [row] = yield* world.rows("instances")
      assert.deepStrictEqual(JSON.parse(String(row?.counts)), expected)
    })
  )

  it.scoped("shows a sign of life with every heartbeat", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(Layer.empty, { jobs: [], leaseDuration: "3 seconds" })
      const before = yield* jobsd.instance
      const after = yield* eventually(jobsd.instance, ({ lastSeenAt }) => lastSeenAt.epochMillis > before.lastSeenAt.epochMillis)
      assert.deepStrictEqual(after.startedAt, before.startedAt)
      const [row] = yield* world.rows("instances")
      assert.isAtLeast(Number(row?.lease_until) - Number(row?.seen_at), 3000)
    })
  )

  it.scoped("that was presumed dead interrupts its handlers, registers anew, and works on", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const interrupted: Array<number> = []
      const Long = Job.make("Long")
      const live = Long.toLayer((_, { attempt }) =>
        attempt > 1 ? Effect.void : Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(attempt)))
      )
      const jobsd = yield* world.start(live, { jobs: [Long], leaseDuration: "3 seconds" })
      const before = (yield* jobsd.instance).id
      const id = yield* jobsd.createRun(Long, undefined)
      yield* hasStarted(jobsd)
      yield* world.unsafe("UPDATE @_instances SET state = 3")
      const state = yield* reaches(jobsd, id, "succeeded")
      const after = (yield* jobsd.instance).id
      assert.notStrictEqual(after, before)
      assert.deepInclude(state, { startedBy: after, crashCount: 1, attempt: 2 })
      assert.deepStrictEqual(interrupted, [1])
      assert.isTrue(world.logs.some(({ message }) => message.includes("registers anew")))
    })
  )

  it.scoped("gives back runs that the table says it has and it knows nothing of", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Lost")
      const jobsd = yield* world.start(live, { jobs: [job], leaseDuration: "3 seconds" })
      const { id: me } = yield* jobsd.instance
      const id = yield* jobsd.createRun(job, undefined, { delay: "1 hour" })
      // as if the answer to a claim had been lost
      yield* world.unsafe(`UPDATE @_runs SET state = 1, fence = 1, owner = '${me}', claim_token = '${me}', claimed_at = 1, run_at = 1`)
      const state = yield* reaches(jobsd, id, "succeeded")
      assert.deepInclude(state, { attempt: 1, crashCount: 0 })
    })
  )

  it.scoped("that is only a client is none", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      assert.strictEqual((yield* Effect.flip(client.instance))._tag, "NoInstance")
      assert.lengthOf(yield* world.rows("instances"), 0)
    })
  )
})

onEveryDatabase("a poison run", (it) => {
  it.scoped("whose process died too often fails without being started again", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const { calls, job, live } = counted("Poison")
      const poison = yield* client.createRun(job, undefined)
      const last = yield* client.createRun(job, undefined)
      const once = yield* client.createRun(job, undefined, { retriesOnCrash: 0 })
      yield* world.unsafe(`UPDATE @_runs SET crashes = 3 WHERE id = '${poison}'`)
      yield* world.unsafe(`UPDATE @_runs SET crashes = 2 WHERE id = '${last}'`)
      yield* world.unsafe(`UPDATE @_runs SET crashes = 1 WHERE id = '${once}'`)
      const jobsd = yield* world.start(live, { jobs: [job] })
      const state = yield* reaches(jobsd, poison, "failed")
      assert.include(state.completedError ?? "", "died 3 times")
      yield* reaches(jobsd, once, "failed")
      yield* reaches(jobsd, last, "succeeded")
      assert.deepStrictEqual(
        calls.map((run) => run.id),
        [last]
      )
    })
  )
})
