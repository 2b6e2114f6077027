/** Many at once on the same rows: each run is claimed once, each key is held once, and nobody but the library sees a conflict. */
import { isDeepStrictEqual } from "node:util"
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Option } from "effect"
import { Jobsd, type Run } from "jobsd"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { choicesFor, limit, percentile, report, scaled } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { createMeanwhile, untiring } from "./support/load.js"
import { Act } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

onEveryDatabase("eight processes", (it, database) => {
  it.scoped(
    "that claim from one heap of runs claim each of them once",
    () =>
      Effect.gen(function* () {
        const count = scaled(1000, 100_000)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const ids = yield* Effect.orDie(
          Effect.forEach(Array.from({ length: count }), () => jobsd.createRun(Act, { do: "succeed" }), { concurrency: 50 })
        )
        const from = Date.now()
        // a lease that a busy machine does not cost them
        yield* Effect.replicateEffect(world.worker({ workers: 10, leaseMillis: 30_000 }), 8, { concurrency: 8 })
        yield* allEnded(world, "10 minutes")
        const took = Date.now() - from
        const verdict = yield* world.verdict(ids)
        const busy = world.workers.filter((worker) => worker.runs("start").length > 0).length
        report({
          row: 33,
          what: `8 processes, ${count} runs`,
          database,
          count: verdict.seen.claims,
          result: verdict.seen.succeeded === count && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${Math.round((count / took) * 1000)} runs/s with the start of the processes, claims ${verdict.seen.claims}, processes that had some ${busy}`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, count)
        assert.lengthOf(
          world.workers.flatMap((worker) => worker.runs("start")),
          count
        )
      }),
    limit(60, 900)
  )
})

onEveryDatabase("hot unique keys", (it, database) => {
  it.scoped(
    "in transactions of which every third is rolled back are held by one live run at most, and what was committed is there",
    () =>
      Effect.gen(function* () {
        const transactions = scaled(150, 3000)
        const choose = choicesFor(`keys on ${database}`)
        const { url } = yield* Target
        const world = yield* makeAuditedWorld
        // SQLite's transactions of users begin without a lock, and another process would make them fail: one program for all there
        const instance = database === "sqlite" ? null : yield* Effect.replicateEffect(world.worker({ workers: 10 }), 2, { concurrency: 2 })
        const user = Effect.gen(function* () {
          const sql =
            database === "sqlite" ? world.sql : Context.get(yield* Layer.build(Layer.fresh(clientLayer(url, 4))), SqlClient.SqlClient)
          const client = Layer.provide(Jobsd.layerClient({ tablePrefix: world.prefix }), Layer.succeed(SqlClient.SqlClient, sql))
          return { sql, jobsd: Context.get(yield* Layer.build(client), Jobsd.Jobsd) }
        })
        const users = yield* Effect.replicateEffect(user, 2)
        const committed = new Set<Run.RunId>()
        const rolledBack = new Set<Run.RunId>()
        const unexpected: Array<string> = []
        let retries = 0
        const transaction = ({ jobsd, sql }: Effect.Effect.Success<typeof user>) =>
          Effect.gen(function* () {
            const keys = [0, 1, 2].map(() => `key ${Math.floor(choose.between(0, 12))}`)
            const ids: Array<Run.RunId> = []
            const exit = yield* Effect.gen(function* () {
              for (const unique of keys.sort()) ids.push(yield* jobsd.createRun(Act, { do: "succeed", millis: 5 }, { ...untiring, unique }))
              if (choose.chance(0.3)) yield* Effect.fail("rolled back" as const)
            }).pipe(sql.withTransaction, Effect.exit)
            const failure = Exit.isFailure(exit) ? Cause.failureOption(exit.cause) : Option.none()
            if (Exit.isSuccess(exit)) for (const id of ids) committed.add(id)
            else if (Option.isSome(failure) && failure.value === "rolled back") for (const id of ids) rolledBack.add(id)
            else if (Option.isSome(failure) && (failure.value as { readonly _tag: string })._tag === "RetryTransaction") retries++
            else unexpected.push(Cause.pretty((exit as Exit.Failure<void, unknown>).cause))
          })
        yield* Effect.forEach(Array.from({ length: transactions }), (_, i) => transaction(users[i % users.length]!), { concurrency: 8 })
        if (instance === null) yield* world.worker({ workers: 10 })
        yield* allEnded(world)
        const verdict = yield* world.verdict([...committed])
        const rows = new Set((yield* world.rows<{ readonly id: Run.RunId }>("runs")).map(({ id }) => id))
        // a rolled back transaction had made these, or had found them to exist
        const ghosts = [...rolledBack].filter((id) => rows.has(id) && !committed.has(id))
        report({
          row: 35,
          what: "12 hot keys, 30 % rollback",
          database,
          count: transactions,
          result: ghosts.length === 0 && unexpected.length === 0 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${verdict.seen.runs} runs created, ${retries} typed retries, keys held twice ${verdict.keys.length}`
        })
        assert.isAbove(rolledBack.size, 0)
        assert.deepStrictEqual(unexpected, [])
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.deepStrictEqual(ghosts, [])
      }),
    limit(60, 300)
  )
})

onEveryDatabase("a storm", (it, database) => {
  it.scoped(
    "of creating, claiming, settling, retrying, cancelling and sweeping at once shows no conflict to anybody, and loses nothing",
    () =>
      Effect.gen(function* () {
        const millis = scaled(4000, 60_000)
        const choose = choicesFor(`storm on ${database}`)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const workers = yield* Effect.replicateEffect(world.worker({ workers: 10, sweepMillis: 100, pollMillis: 50 }), 3, {
          concurrency: 3
        })
        const loads = yield* Effect.replicateEffect(
          createMeanwhile(
            jobsd,
            () => (choose.chance(0.3) ? { do: "fail", times: 1 } : { do: "succeed", millis: choose.between(0, 30) }),
            4
          ),
          3
        )
        const cancelErrors: Array<unknown> = []
        let cancelled = 0
        const cancelling = yield* Effect.forkScoped(
          Effect.forever(
            Effect.gen(function* () {
              yield* Effect.sleep("15 millis")
              const { accepted } = choose.oneOf(loads)
              const id = accepted[accepted.length - 1 - Math.floor(choose.between(0, 10))]
              if (id === undefined) return
              const result = yield* Effect.either(Effect.uninterruptible(jobsd.cancel(id)))
              if (result._tag === "Left") cancelErrors.push(result.left)
              else if (result.right !== "finished") cancelled++
            })
          )
        )
        yield* Effect.sleep(millis / 4)
        yield* eventually(
          Effect.sync(() => workers[0]!.atWork()),
          (atWork) => atWork.length > 0
        )
        workers[0]!.kill("SIGKILL")
        yield* world.spawn({ workers: 10, sweepMillis: 100, pollMillis: 50 })
        yield* Effect.sleep((millis * 3) / 4)
        yield* Fiber.interrupt(cancelling)
        yield* Effect.forEach(loads, ({ stop }) => stop)
        yield* allEnded(world)
        const accepted = loads.flatMap((load) => load.accepted)
        const errors = [...loads.flatMap((load) => [...load.failures, ...load.defects]), ...cancelErrors]
        const verdict = yield* world.verdict(accepted)
        report({
          row: 34,
          what: "storm of everything at once",
          database,
          count: accepted.length,
          result: errors.length === 0 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${accepted.length} runs, ${cancelled} cancelled, ${verdict.seen.crashes} crashes, conflicts seen by users ${errors.length}, lost ${verdict.lost.length}`
        })
        assert.isAbove(cancelled, 0)
        assert.deepStrictEqual(errors, [])
        assert.deepStrictEqual(defects(verdict), noDefects)
      }),
    limit(60, 200)
  )
})

onEveryDatabase("a file that another program locks for a second at a time", (it, database) => {
  const test = database === "sqlite" ? it.scoped : it.scoped.skip

  test(
    "stops no event loop, and nobody who asks the library sees that it is busy",
    () =>
      Effect.gen(function* () {
        const millis = scaled(6000, 60_000)
        const { url } = yield* Target
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const workers = yield* Effect.replicateEffect(world.worker({ leaseMillis: 30_000 }), 8, { concurrency: 4 })
        /** how late the timers of all processes are from now on, at their worst but for one in a hundred */
        const lateness = () => {
          const heard = workers.map((worker) => worker.lags().length)
          const from = Date.now()
          return () => {
            const late = workers.flatMap((worker, i) => worker.lags().slice(heard[i]))
            const timers = Math.floor(((Date.now() - from) / 50) * workers.length)
            // those that were on time said nothing
            return percentile([...late, ...Array.from({ length: Math.max(0, timers - late.length) }, () => 0)], 0.99)
          }
        }
        // a busy machine makes timers late, too
        const unlocked = lateness()
        yield* Effect.sleep("1500 millis")
        const allowed = Math.max(100, 3 * unlocked())
        const locker = Context.get(yield* Layer.build(clientLayer(url, 1)), SqlClient.SqlClient)
        yield* locker.unsafe("PRAGMA busy_timeout = 0")
        let locked = 0
        const locking = yield* Effect.forkScoped(
          Effect.forever(
            Effect.gen(function* () {
              const begun = yield* Effect.option(locker.unsafe("BEGIN IMMEDIATE"))
              if (Option.isSome(begun)) {
                locked++
                yield* Effect.sleep("1 second")
                yield* locker.unsafe("COMMIT")
              }
              yield* Effect.sleep(Option.isSome(begun) ? "200 millis" : "2 millis")
            }).pipe(Effect.uninterruptible)
          )
        )
        const lockedNow = lateness()
        const load = yield* createMeanwhile(jobsd, () => ({ do: "succeed", millis: 20 }), 10)
        yield* Effect.sleep(millis)
        yield* load.stop
        const p99 = lockedNow()
        yield* Fiber.interrupt(locking)
        yield* allEnded(world)
        const verdict = yield* world.verdict(load.accepted)
        const errors = [...load.failures, ...load.defects]
        report({
          row: 37,
          what: "8 processes on a file that is locked 1 s at a time",
          database,
          count: locked,
          result: errors.length === 0 && p99 <= allowed && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${load.accepted.length} runs, BUSY seen by users ${errors.length}, event loop p99 ${Math.round(p99)} ms late, allowed ${Math.round(allowed)} ms`
        })
        assert.isAbove(locked, 2)
        assert.deepStrictEqual(errors, [])
        assert.isAtMost(p99, allowed)
        assert.deepStrictEqual(defects(verdict), noDefects)
      }),
    limit(60, 200)
  )
})
