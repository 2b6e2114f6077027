/** Outcomes that the database refuses, and runs that come back to an instance that still has them. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Layer, Schema } from "effect"
import { Job, JobSchedule } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { counted, eventually, hasStarted, makeWorld, reaches } from "../support/world.js"

onEveryDatabase("an outcome that the database refuses", (it, database) => {
  /** refuses rows that say this of themselves */
  const refuse = (condition: string) =>
    database === "sqlite"
      ? `CREATE TRIGGER @_refuse BEFORE UPDATE ON @_runs WHEN ${condition.replaceAll("row.", "NEW.")} BEGIN SELECT RAISE(ABORT, 'refused'); END`
      : `ALTER TABLE @_runs ADD CONSTRAINT @_refuse CHECK (NOT (${condition.replaceAll("row.", "")}))`

  it.scoped("costs no other run of its group its outcome, or its result", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      yield* world.unsafe(refuse("row.job = 'Cursed' AND row.state = 2"))
      const together = yield* Deferred.make<void>()
      const starts: Array<number> = []
      const Innocent = Job.make("Innocent", { payload: { n: Schema.Int }, success: Schema.Int })
      const Cursed = Job.make("Cursed")
      const live = Layer.merge(
        Innocent.toLayer(({ n }) =>
          Effect.as(
            Effect.zipRight(
              Effect.sync(() => starts.push(n)),
              Deferred.await(together)
            ),
            n
          )
        ),
        Cursed.toLayer(() => Deferred.await(together))
      )
      const jobsd = yield* world.start(live, { jobs: [Innocent, Cursed], workers: 40, leaseDuration: "3 seconds" })
      const before = yield* jobsd.createRuns(
        Innocent,
        Array.from({ length: 15 }, (_, n) => ({ n }))
      )
      const cursed = yield* jobsd.createRun(Cursed, undefined)
      const after = yield* jobsd.createRuns(
        Innocent,
        Array.from({ length: 15 }, (_, n) => ({ n: 15 + n }))
      )
      yield* eventually(jobsd.instance, ({ counts }) => counts.started === 31)
      yield* Deferred.succeed(together, undefined)
      const ids = [...before, ...after]
      const states = yield* Effect.forEach(ids, (id) => reaches(jobsd, id, "succeeded"))
      assert.deepStrictEqual(
        states.map(({ result }) => result),
        ids.map((_, n) => n)
      )
      // the cursed one has been given back, and tried again
      yield* eventually(world.rows("runs", `WHERE id = '${cursed}'`), ([row]) => Number(row?.fence) > 2)
      assert.isTrue(world.logs.some(({ level, message }) => level === "ERROR" && message.startsWith("the database refuses an outcome")))
      assert.lengthOf(starts, 30)
      assert.strictEqual((yield* jobsd.instance).counts.succeeded, 30)
    })
  )

  it.scoped("for its successor's sake is recorded without one, and says so", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const Often = JobSchedule.every("Often", "20 millis")
      // the successor is an insert
      yield* world.unsafe(
        database === "sqlite"
          ? "CREATE TRIGGER @_refuse BEFORE INSERT ON @_runs WHEN NEW.occurrence = 1 BEGIN SELECT RAISE(ABORT, 'refused'); END"
          : refuse("row.occurrence = 1")
      )
      const Chain = Job.make("Chain", { success: Schema.String })
      const jobsd = yield* world.start(
        Chain.toLayer(() => Effect.succeed("kept")),
        { jobs: [Chain], schedules: [Often] }
      )
      const id = yield* jobsd.createRun(Chain, undefined, { schedule: Often })
      const state = yield* reaches(jobsd, id, "succeeded")
      assert.strictEqual(state.result, "kept")
      assert.lengthOf(yield* world.rows("runs"), 1)
      assert.isTrue(world.logs.some(({ level, message }) => level === "ERROR" && message.startsWith("a chain of runs has ended")))
    })
  )
})

onEveryDatabase("a run that comes back to an instance that still works on it", (it) => {
  it.scoped("waits, and is not claimed again and again", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const end = yield* Deferred.make<void>()
      const Deaf = Job.make("Deaf")
      const { job, live } = counted("Other")
      const jobsd = yield* world.start(
        Layer.merge(
          Deaf.toLayer(() => Effect.uninterruptible(Deferred.await(end))),
          live
        ),
        { jobs: [Deaf, job], workers: 4 }
      )
      const id = yield* jobsd.createRun(Deaf, undefined)
      const row = Effect.map(world.rows("runs", `WHERE id = '${id}'`), ([row]) => ({
        state: Number(row?.state),
        fence: Number(row?.fence),
        runAt: Number(row?.run_at)
      }))
      yield* hasStarted(jobsd)
      // as a sweep puts back what has run over its time
      yield* world.unsafe(`UPDATE @_runs SET state = 0, owner = NULL, deadline_at = NULL, fence = fence + 1 WHERE id = '${id}'`)
      const put = yield* row
      const other = yield* jobsd.createRun(job, undefined)
      const given = yield* eventually(row, ({ fence, state }) => state === 0 && fence > put.fence)
      assert.isAtLeast(given.runAt - put.runAt, 4000)
      yield* reaches(jobsd, other, "succeeded")
      // once, before it was given back: at the speed of the database it would have been hundreds of times by now
      assert.strictEqual((yield* row).fence, given.fence)
      assert.strictEqual(given.fence, put.fence + 1)
      yield* Deferred.succeed(end, undefined)
    })
  )
})
