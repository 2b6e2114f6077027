/** Every kind of statement is recognized in what the library sends today: a fault at one that is not would never strike. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Effect, Layer, Schedule } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { eventually, makeWorld, reaches } from "../support/world.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import type { Kind } from "./support/statements.js"
import { Often } from "./support/work.js"

onEveryDatabase("the statements of the library", (it, database) => {
  it.scoped("are recognized by what they are for", () =>
    Effect.gen(function* () {
      const faulty = makeFaulty(yield* SqlClient.SqlClient)
      const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
      const Fails = Job.make("Fails")
      const Follows = Job.make("Follows")
      const Endless = Job.make("Endless")
      const live = Layer.mergeAll(
        Fails.toLayer(() => Effect.fail("always")),
        Follows.toLayer(() => Effect.void),
        Endless.toLayer(() => Effect.never)
      )
      const jobsd = yield* world.start(live, {
        jobs: [Fails, Follows, Endless],
        schedules: [Often],
        retriesOnError: 1,
        backoff: Schedule.spaced(10),
        leaseDuration: "3 seconds",
        shutdownTimeout: 0
      })
      const [fails, , endless, waits, orphan] = [
        yield* jobsd.createRun(Fails, undefined),
        yield* jobsd.createRun(Follows, undefined, { schedule: Often, limit: 2 }),
        yield* jobsd.createRun(Endless, undefined),
        yield* jobsd.createRun(Endless, undefined, { delay: "1 hour" }),
        yield* jobsd.createRun(Endless, undefined, { delay: "1 hour" })
      ]
      yield* reaches(jobsd, fails, "failed")
      yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === 2)
      yield* jobsd.cancel(waits)
      yield* reaches(jobsd, endless, "running")
      yield* jobsd.cancel(endless)
      yield* reaches(jobsd, endless, "cancelled")
      // one that nobody owns, and an instance that is dead: the sweep's work
      const [instance] = yield* world.rows("instances")
      yield* world.unsafe(`UPDATE @_runs SET state = 1, fence = 1, owner = id, claim_token = id, claimed_at = 1 WHERE id = '${orphan}'`)
      yield* world.unsafe(
        `INSERT INTO @_instances (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
         SELECT '${orphan}', host, pid, 0, jobs, schedules, queues, 0, started_at, seen_at, counts FROM @_instances WHERE id = '${instance?.id}'`
      )
      yield* eventually(world.rows("runs", "WHERE crashes = 1"), (rescued) => rescued.length === 1)
      // and one that it owns and does not know
      yield* world.unsafe(
        `UPDATE @_runs SET state = 1, fence = 9, owner = '${instance?.id}', claim_token = id, claimed_at = 1 WHERE id = '${fails}'`
      )
      yield* eventually(world.rows("runs", `WHERE id = '${fails}' AND state <> 1`), (released) => released.length === 1)
      yield* jobsd.stop

      const seen = new Set(faulty.seen.map(({ kind }) => kind))
      const expected: ReadonlyArray<Kind> = [
        ...(["begin", "commit", "claim", "look", "settle", "successor", "attempt", "create", "cancel", "request cancel"] as const),
        ...(["release", "register", "heartbeat", "drain", "stop", "sweep look", "declare dead", "sweep lock"] as const),
        ...(["put back", "migration step", "migration record"] as const),
        // PostgreSQL renews and compares in one statement
        ...(database === "postgres" ? [] : (["reconcile"] as const)),
        ...(database === "mysql" ? (["claim read", "settle lock"] as const) : [])
      ]
      assert.deepStrictEqual(
        expected.filter((kind) => !seen.has(kind)),
        []
      )
    })
  )
})
