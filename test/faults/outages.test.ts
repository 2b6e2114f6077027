/** A network and a server that misbehave for a while: nothing is lost, nothing crashes, and everything goes on afterwards by itself. */
import { isDeepStrictEqual } from "node:util"
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { choicesFor, large, limit, report, scaled, secondsWatched } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { untiring, watchedLoad } from "./support/load.js"
import { startProxy } from "./support/proxy.js"
import { Act } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

onEveryDatabase("a server", (it, database) => {
  const test = database === "sqlite" ? it.scoped.skip : it.scoped

  /** ends one connection of this database, not the one it uses; how many it was */
  const killOne = (killer: SqlClient.SqlClient) => {
    const ask = (text: string) => Effect.orDie(killer.unsafe<{ readonly id: number }>(text).unprepared)
    return database === "postgres"
      ? Effect.map(
          ask(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`
          ),
          (rows) => rows.length
        )
      : Effect.flatMap(
          ask("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() ORDER BY RAND() LIMIT 1"),
          // it may have gone by itself
          ([row]) => (row === undefined ? Effect.succeed(0) : Effect.as(Effect.ignore(Effect.sandbox(ask(`KILL ${row.id}`))), 1))
        )
  }

  test(
    "that ends connections at random costs no run and no process, its errors are typed, and soon as much is done as before",
    () =>
      Effect.gen(function* () {
        const millis = scaled(4000, 60_000)
        const killsPerSecond = 10
        const { url } = yield* Target
        const sql = yield* SqlClient.SqlClient
        const killer = Context.get(yield* Layer.build(clientLayer(url, 1)), SqlClient.SqlClient)
        const world = yield* makeAuditedWorld
        const { afterwards, load } = yield* watchedLoad(world, scaled(800, 8000), () => ({ do: "succeed", millis: 100 }))
        let killed = 0
        const from = Date.now()
        // by the clock: a slow machine makes up for what it is behind
        for (let tick = 0; (tick * 1000) / killsPerSecond < millis; tick++) {
          yield* Effect.sleep(Math.max(0, from + (tick * 1000) / killsPerSecond - Date.now()))
          killed += yield* killOne(killer)
        }
        const until = Date.now()
        yield* Effect.sleep(secondsWatched.after * 1000)
        yield* load.stop
        // a pool notices that a connection is dead when it uses it
        yield* Effect.repeatN(
          Effect.all(
            Array.from({ length: 12 }, () => Effect.ignore(sql`SELECT 1`)),
            { concurrency: 12 }
          ),
          2
        )
        const { check, figure, result } = yield* afterwards({ from, until })
        report({
          row: 19,
          what: "own connections killed at random",
          database,
          count: killed,
          result,
          figure: `${((killed / (until - from)) * 1000).toFixed(1)} kills/s, ${figure}`
        })
        assert.isAtLeast(killed, scaled(10, 400))
        check()
      }),
    limit(60, 300)
  )

  /** one process, whose way to the database is a proxy, at work on a run that never ends */
  const workerBehindProxy = Effect.gen(function* () {
    const { url } = yield* Target
    const proxy = yield* startProxy(url)
    const world = yield* makeAuditedWorld
    const jobsd = yield* world.client()
    const cutOff = yield* world.worker({ url: proxy.url })
    const endless = yield* Effect.orDie(jobsd.createRun(Act, { do: "never end" }, untiring))
    yield* eventually(
      Effect.sync(() => cutOff.atWork()),
      (atWork) => atWork.length === 1
    )
    /** lets nothing through until the run is interrupted, and after that */
    const losesItsLease = Effect.zipRight(
      Effect.sync(() => proxy.blackHole(true)),
      eventually(
        Effect.sync(() => cutOff.runs("interrupted")),
        (interrupted) => interrupted.length === 1
      )
    )
    return { world, jobsd, proxy, cutOff, endless, losesItsLease }
  })

  test(
    "that does not answer for a while loses an instance its lease, and the instance comes back by itself",
    () =>
      Effect.gen(function* () {
        const millis = scaled(5000, 60_000)
        const { cutOff, endless, jobsd, losesItsLease, proxy, world } = yield* workerBehindProxy
        const from = Date.now()
        yield* losesItsLease
        const fencedAfter = Date.now() - from
        yield* Effect.sleep(Math.max(0, millis - fencedAfter))
        const during = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed" })), 5)
        const back = Date.now()
        proxy.blackHole(false)
        yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === during.length, "20 seconds")
        const recoveredAfter = Date.now() - back
        yield* Effect.orDie(jobsd.cancel(endless))
        yield* allEnded(world)
        const verdict = yield* world.verdict([endless, ...during])
        report({
          row: 23,
          what: `all connections black-holed for ${millis} ms`,
          database,
          count: 1,
          result: recoveredAfter <= 10_000 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `handlers interrupted after ${fencedAfter} ms, at work again ${recoveredAfter} ms after the end`
        })
        // trust is 1.8 s since a heartbeat of at most 0.6 s ago
        assert.isAtMost(fencedAfter, 2500)
        assert.isAtMost(recoveredAfter, 10_000)
        assert.isFalse(cutOff.hasExited())
        assert.deepStrictEqual(defects(verdict), noDefects)
      }),
    limit(40, 120)
  )

  test(
    "whose answer to a registration comes when its lease is nearly over makes no instance that claims runs and loses them at once",
    () =>
      Effect.gen(function* () {
        const { cutOff, endless, jobsd, losesItsLease, proxy, world } = yield* workerBehindProxy
        // longer than there is trust in a registration, which is 1.8 s from when it is asked for
        proxy.arm("register", { do: "delay", millis: 2500 })
        yield* losesItsLease
        proxy.blackHole(false)
        yield* eventually(
          Effect.sync(() => cutOff.runs("start")),
          (started) => started.length === 2
        )
        assert.strictEqual(proxy.struck(), 1)
        assert.strictEqual(cutOff.logged("registers anew"), 1)
        assert.isAtLeast(cutOff.logged("could not register"), 1)
        yield* Effect.orDie(jobsd.cancel(endless))
        yield* allEnded(world)
        assert.deepStrictEqual(defects(yield* world.verdict([endless])), noDefects)
      }),
    limit(40, 40)
  )

  // TCP would notice at last, after many minutes; how long an instance is out until then is a figure, not a promise
  const halfOpen = large ? test : it.scoped.skip

  halfOpen(
    "whose end of every connection has vanished without a word costs an instance its connections until its driver notices, not its life",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const proxy = yield* startProxy(url)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const cutOff = yield* world.worker({ url: proxy.url, connections: 3 })
        const first = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed" }))
        yield* allEnded(world)
        // three times, so that every connection of the pool is among them, whatever it was used for
        for (let i = 0; i < 3; i++) {
          proxy.abandon()
          yield* Effect.sleep("1 second")
        }
        const second = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed" }))
        const before = yield* Effect.either(Effect.sandbox(allEnded(world, "15 seconds")))
        assert.isFalse(cutOff.hasExited())
        const from = Date.now()
        proxy.notice()
        yield* allEnded(world, "40 seconds")
        report({
          row: 23,
          what: "every connection half-open",
          database,
          count: 1,
          result: "passed",
          figure: `${before._tag === "Right" ? "" : "not "}at work before its driver noticed, ${Date.now() - from} ms afterwards at the latest`
        })
        assert.isFalse(cutOff.hasExited())
        assert.deepStrictEqual(defects(yield* world.verdict([first, second])), noDefects)
      }),
    limit(60, 60)
  )

  test(
    "that is far away and loses one connection in a hundred statements is slow, and loses nothing",
    () =>
      Effect.gen(function* () {
        const count = scaled(60, 1000)
        const choose = choicesFor(`latency on ${database}`)
        const { url } = yield* Target
        const proxy = yield* startProxy(url)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        // first it is there: a client of @effect/sql whose first connection is lost does not come to be
        yield* world.worker({ url: proxy.url, workers: 20, leaseMillis: 30_000 })
        proxy.onEach(() =>
          choose.chance(0.01) ? { do: "cut", when: choose.oneOf(["before", "after"]) } : { do: "delay", millis: choose.between(0, 400) }
        )
        const from = Date.now()
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed" }, untiring)), count)
        yield* allEnded(world, "5 minutes")
        const took = Date.now() - from
        const verdict = yield* world.verdict(ids)
        report({
          row: 24,
          what: "latency 200 ± 200 ms, 1 % resets",
          database,
          count: proxy.struck(),
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${Math.round((count / took) * 1000)} runs/s with 20 workers, lost ${verdict.lost.length}`
        })
        assert.isAbove(proxy.struck(), 0)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, count)
      }),
    limit(60, 400)
  )
})

onEveryDatabase("a small pool", (it, database) => {
  for (const connections of database === "sqlite" ? [1] : [1, 2]) {
    it.scoped(
      `of ${connections} with fifty handlers that all use it has no deadlock, and heartbeats are on time`,
      () =>
        Effect.gen(function* () {
          const world = yield* makeAuditedWorld
          const jobsd = yield* world.client()
          const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "sql", millis: 10 })), 100)
          const worker = yield* world.worker({ connections, workers: 50, leaseMillis: 30_000 })
          yield* allEnded(world)
          const verdict = yield* world.verdict(ids)
          report({
            row: 25,
            what: `pool of ${connections}, 50 handlers with SQL`,
            database,
            count: ids.length,
            result: verdict.seen.succeeded === ids.length ? "passed" : "failed",
            figure: `${verdict.seen.succeeded} succeeded, late heartbeats ${worker.logged("renew")}`
          })
          assert.deepStrictEqual(defects(verdict), noDefects)
          assert.strictEqual(verdict.seen.succeeded, ids.length)
          assert.strictEqual(worker.logged("renew"), 0)
        }),
      limit(40, 40)
    )
  }
})
