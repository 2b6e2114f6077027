/** Budgets, backoff, timeouts. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Layer, Schedule } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { eventually, makeWorld, reaches } from "./support/world.js"

const now = Schedule.spaced("1 millis")

onEveryDatabase("retries", (it) => {
  it.scoped("are spent by each kind of outcome for itself", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Both = Job.make("Both", { retriesOnError: 2, retriesOnTimeout: 1, timeout: "40 millis", backoff: now })
      const seen: Array<string> = []
      const live = Both.toLayer((_, run) => {
        seen.push(`${run.attempt}: ${run.retriesOnErrorCount} errors, ${run.retriesOnTimeoutCount} timeouts`)
        return run.attempt === 2 ? Effect.never : Effect.fail("no")
      })
      const jobsd = yield* world.start(live, { jobs: [Both] })
      const id = yield* jobsd.createRun(Both, undefined)
      const state = yield* reaches(jobsd, id, "failed")
      assert.deepStrictEqual(seen, [
        "1: 0 errors, 0 timeouts",
        "2: 1 errors, 0 timeouts",
        "3: 1 errors, 1 timeouts",
        "4: 2 errors, 1 timeouts"
      ])
      assert.deepInclude(state, { attempt: 4, retriesOnErrorCount: 3, retriesOnTimeoutCount: 1, completedError: "no" })
      // the last attempt is in the run, those before it are kept beside
      const attempts = yield* world.rows("attempts", "ORDER BY attempt")
      assert.deepStrictEqual(
        attempts.map((row) => [row.run_id, row.attempt, row.outcome]),
        [
          [id, 1, "error"],
          [id, 2, "timeout"],
          [id, 3, "error"]
        ]
      )
      for (const row of attempts) {
        assert.isAtLeast(Number(row.ended_at), Number(row.started_at))
        assert.strictEqual(row.instance, (yield* jobsd.instance).id)
      }
    })
  )

  it.scoped("wait as long as the job's backoff says", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const due: Array<number> = []
      const Backoff = Job.make("Backoff", { retriesOnError: 3, backoff: Schedule.exponential("100 millis") })
      const live = Backoff.toLayer((_, run) => {
        due.push(run.runAt.epochMillis)
        return run.attempt === 4 ? Effect.void : Effect.fail("no")
      })
      const jobsd = yield* world.start(live, { jobs: [Backoff], pollInterval: "1 minute" })
      yield* reaches(jobsd, yield* jobsd.createRun(Backoff, undefined), "succeeded")
      // from the end of the attempt: after its start, and before its row was written
      const attempts = yield* world.rows("attempts", "ORDER BY attempt")
      for (const [i, delay] of [100, 200, 400].entries()) {
        assert.isAtLeast(due[i + 1]!, Number(attempts[i]!.started_at) + delay)
        assert.isAtMost(due[i + 1]!, Number(attempts[i]!.ended_at) + delay)
      }
    })
  )

  it.scoped("end when the backoff given to the run ends", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Never = Job.make("Never", { retriesOnError: 10 })
      const jobsd = yield* world.start(
        Never.toLayer(() => Effect.fail("no")),
        { jobs: [Never] }
      )
      const backoff = Schedule.intersect(now, Schedule.recurs(2))
      const state = yield* reaches(jobsd, yield* jobsd.createRun(Never, undefined, { backoff }), "failed")
      assert.strictEqual(state.attempt, 3)
    })
  )

  it.scoped("go on for ever where the limit is Infinity, and 20 earlier attempts are kept", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Stubborn = Job.make("Stubborn", { retriesOnError: Number.POSITIVE_INFINITY, backoff: now })
      const live = Stubborn.toLayer((_, { attempt }) => (attempt === 30 ? Effect.void : Effect.fail(`no ${attempt}`)))
      const jobsd = yield* world.start(live, { jobs: [Stubborn] })
      const state = yield* reaches(jobsd, yield* jobsd.createRun(Stubborn, undefined), "succeeded")
      assert.strictEqual(state.attempt, 30)
      const kept = yield* world.rows("attempts", "ORDER BY attempt")
      assert.deepStrictEqual(
        kept.map((row) => Number(row.attempt)),
        Array.from({ length: 20 }, (_, i) => i + 10)
      )
    })
  )
})

onEveryDatabase("a timeout", (it) => {
  it.scoped("runs the handler's finalizers before the worker is free", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const Slow = Job.make("Slow", { timeout: "50 millis", retriesOnTimeout: 0 })
      const Next = Job.make("Next")
      const live = Layer.merge(
        Slow.toLayer(() =>
          Effect.acquireRelease(Effect.void, () =>
            Effect.zipRight(
              Effect.sleep("150 millis"),
              Effect.sync(() => events.push("finalized"))
            )
          ).pipe(Effect.zipRight(Effect.never))
        ),
        Next.toLayer(() => Effect.sync(() => events.push("next")))
      )
      const jobsd = yield* world.start(live, { jobs: [Slow, Next], workers: 1 })
      const slow = yield* jobsd.createRun(Slow, undefined)
      yield* reaches(jobsd, slow, "running")
      yield* reaches(jobsd, yield* jobsd.createRun(Next, undefined), "succeeded")
      assert.deepStrictEqual(events, ["finalized", "next"])
      assert.strictEqual((yield* jobsd.getRunState(slow)).status, "failed")
    })
  )

  it.scoped("cannot stop code that does not give way: its success counts, and is marked as late", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Busy = Job.make("Busy", { timeout: "50 millis", retriesOnTimeout: 0 })
      const block = Effect.sync(() => {
        for (const until = Date.now() + 150; Date.now() < until; ) {}
      })
      const jobsd = yield* world.start(
        Busy.toLayer(() => block),
        { jobs: [Busy] }
      )
      const id = yield* jobsd.createRun(Busy, undefined)
      yield* reaches(jobsd, id, "succeeded")
      assert.strictEqual(Number((yield* world.rows("runs"))[0]?.late), 1)
    })
  )

  it.scoped("of Infinity is none", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const go = yield* Deferred.make<void>()
      const Patient = Job.make("Patient", { timeout: Number.POSITIVE_INFINITY })
      const jobsd = yield* world.start(
        Patient.toLayer((_, { timeoutAt }) =>
          Effect.zipRight(
            Effect.sync(() => assert.isNull(timeoutAt)),
            Deferred.await(go)
          )
        ),
        { jobs: [Patient], timeout: "50 millis" }
      )
      const id = yield* jobsd.createRun(Patient, undefined)
      yield* reaches(jobsd, id, "running")
      yield* Effect.sleep("200 millis")
      yield* Deferred.succeed(go, undefined)
      yield* reaches(jobsd, id, "succeeded")
    })
  )

  it.scoped("that the holder does not act on is seen by the sweep of any instance", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { id: stuck } = yield* (yield* world.start(Layer.empty, { jobs: [] })).instance
      const Stuck = Job.make("Stuck", { timeout: "1 second" })
      const client = yield* world.client()
      const id = yield* client.createRun(Stuck, undefined)
      // a living instance has it, and its deadline passed a long time ago
      yield* world.unsafe(
        `UPDATE @_runs SET state = 1, fence = 1, owner = '${stuck}', claim_token = '${stuck}', claimed_at = 1, deadline_at = 2`
      )
      const jobsd = yield* world.start(
        Stuck.toLayer(() => Effect.void),
        { jobs: [Stuck] }
      )
      const state = yield* reaches(jobsd, id, "succeeded")
      assert.deepInclude(state, { retriesOnTimeoutCount: 1, attempt: 2 })
      yield* eventually(world.rows("attempts"), ([row]) => row?.outcome === "timeout" && row?.instance === stuck)
    })
  )
})
