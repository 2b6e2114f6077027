/** At most one unfinished run of a key. */
import { assert } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { Job, JobSchedule } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

const A = Job.make("A")
const B = Job.make("B")

onEveryDatabase("a unique key", (it) => {
  it.scoped("is held by one run, however many ask at once", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const clients = yield* Effect.replicateEffect(
        Effect.flatMap(world.apart, ({ client }) => client()),
        5
      )
      const ids = yield* Effect.forEach(
        Array.from({ length: 50 }, (_, i) => clients[i % 5]!),
        (jobsd) => jobsd.createRun(A, undefined, { unique: "key" }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(ids).size, 1)
      assert.lengthOf(yield* world.rows("runs"), 1)
    })
  )

  it.scoped("holds across jobs, and is compared byte by byte", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const id = yield* jobsd.createRun(A, undefined, { unique: "Straße" })
      assert.strictEqual(yield* jobsd.createRun(B, undefined, { unique: "Straße" }), id)
      for (const other of ["Strasse", "straße", "Straße ", "Stra\u00DFe\u0301", "STRASSE", "s".repeat(10_000)]) {
        const created = yield* jobsd.createRun(A, undefined, { unique: other })
        assert.notStrictEqual(created, id)
        assert.strictEqual((yield* jobsd.getRunState(created)).name, other)
      }
    })
  )

  it.scoped("is free when its run has succeeded, failed or been cancelled, and not while it waits for a retry", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const go = yield* Deferred.make<void>()
      const Held = Job.make("Held", { retriesOnError: 1 })
      const live = Held.toLayer((_, { attempt, name }) =>
        name === "fails" ? Effect.fail(attempt) : name === "waits" ? Deferred.await(go) : Effect.void
      )
      const jobsd = yield* world.start(live, { jobs: [Held] })
      const again = (unique: string) => jobsd.createRun(Held, undefined, { unique, delay: "1 hour" })

      const succeeds = yield* jobsd.createRun(Held, undefined, { unique: "succeeds" })
      yield* reaches(jobsd, succeeds, "succeeded")
      assert.notStrictEqual(yield* again("succeeds"), succeeds)

      const fails = yield* jobsd.createRun(Held, undefined, { unique: "fails" })
      yield* eventually(jobsd.getRunState(fails), (state) => state.retriesOnErrorCount === 1 && state.status === "ready")
      assert.strictEqual(yield* again("fails"), fails)
      yield* reaches(jobsd, fails, "failed")
      assert.notStrictEqual(yield* again("fails"), fails)

      const waits = yield* jobsd.createRun(Held, undefined, { unique: "waits" })
      yield* reaches(jobsd, waits, "running")
      assert.strictEqual(yield* again("waits"), waits)
      yield* Deferred.succeed(go, undefined)
      yield* reaches(jobsd, waits, "succeeded")

      const cancelled = yield* again("cancelled")
      yield* jobsd.cancel(cancelled)
      assert.notStrictEqual(yield* again("cancelled"), cancelled)
    })
  )

  it.scoped("is held by a chain between its runs", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Chain")
      const Often = JobSchedule.every("Often", "150 millis")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Often] })
      const options = { schedule: Often, unique: "chain" } as const
      const origin = yield* jobsd.createRun(job, undefined, options)
      const seen = new Set<string>()
      yield* eventually(
        Effect.tap(jobsd.createRun(job, undefined, options), (id) => Effect.sync(() => seen.add(id))),
        () => seen.size >= 4
      )
      for (const id of seen) assert.strictEqual((yield* jobsd.getRunState(id as typeof origin)).originId, origin)
    })
  )
})
