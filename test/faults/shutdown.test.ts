/** Processes that are asked to end: they do, in time, whatever their handlers and the database are doing. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Context, Duration, Effect, Layer } from "effect"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { startProxy } from "./support/proxy.js"
import { Act, type Payload } from "./support/work.js"
import { atDefaults, type Worker } from "./support/workers.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

const shutdownMillis = 1000
/** the wait for handlers, 5 s for the finalizers of interrupted ones, 3 s for the database; and a process takes a moment to end */
const budget = shutdownMillis + 5000 + 3000 + 500
/** the default wait for handlers, and the same: what an orchestrator kills after by default */
const budgetAtDefaults = 30_000

const timeToExit = (worker: Worker) => Effect.map(Effect.timed(worker.exited), ([took]) => Math.round(Duration.toMillis(took)))

onEveryDatabase("SIGTERM", (it, database) => {
  it.scoped(
    "lets short handlers end, gives long ones back uncounted, and leaves those that ignore it to the lease",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (payload: Payload) => Effect.orDie(jobsd.createRun(Act, payload))
        const worker = yield* world.worker({ shutdownMillis })
        const short = yield* create({ do: "succeed", millis: 800 })
        const long = yield* create({ do: "never end" })
        const deaf = yield* create({ do: "succeed", millis: 30_000, stubborn: true })
        yield* eventually(
          Effect.sync(() => worker.runs("start")),
          (started) => started.length === 3
        )
        const waiting = yield* create({ do: "succeed" })
        worker.kill("SIGTERM")
        const took = yield* timeToExit(worker)
        const rows = yield* world.rows<{ readonly id: string; readonly state: number; readonly crashes: number; readonly errors: number }>(
          "runs"
        )
        const found = (id: string) => {
          const row = rows.find((row) => row.id === id)!
          return { state: Number(row.state), crashes: Number(row.crashes), errors: Number(row.errors) }
        }
        report({
          row: 5,
          what: "SIGTERM with short, long and deaf handlers",
          database,
          count: 1,
          result: took <= budget && found(deaf).state === 1 ? "passed" : "failed",
          figure: `exit after ${took} ms, budget ${budget} ms`
        })
        assert.isAtMost(took, budget)
        assert.deepStrictEqual(found(short), { state: 2, crashes: 0, errors: 0 })
        assert.deepStrictEqual(found(long), { state: 0, crashes: 0, errors: 0 })
        assert.deepStrictEqual(found(deaf), { state: 1, crashes: 0, errors: 0 })
        assert.isTrue([0, 2].includes(found(waiting).state))

        yield* Effect.orDie(jobsd.cancel(long))
        yield* Effect.orDie(jobsd.cancel(deaf))
        yield* world.worker()
        yield* allEnded(world)
        assert.deepStrictEqual(defects(yield* world.verdict([short, long, deaf, waiting])), noDefects)
      }),
    limit(40, 40)
  )

  const atLength = large ? it.scoped : it.scoped.skip
  atLength(
    "at the default settings ends the process within 30 s, though a handler ignores it",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const worker = yield* world.worker(atDefaults)
        const deaf = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 300_000, stubborn: true }))
        yield* eventually(
          Effect.sync(() => worker.runs("start")),
          (started) => started.length === 1
        )
        worker.kill("SIGTERM")
        const took = yield* timeToExit(worker)
        const state = yield* Effect.orDie(jobsd.getRunState(deaf))
        report({
          row: 5,
          what: "SIGTERM with a deaf handler, at the defaults",
          database,
          count: 1,
          result: took <= budgetAtDefaults && state.status === "running" ? "passed" : "failed",
          figure: `exit after ${took} ms, budget ${budgetAtDefaults} ms`
        })
        // it did wait: the handler had its time
        assert.isAtLeast(took, atDefaults.shutdownMillis)
        assert.isAtMost(took, budgetAtDefaults)
        assert.strictEqual(state.status, "running")
        assert.isTrue(worker.said.some(({ say }) => say === "stopped"))
      }),
    limit(90, 90)
  )

  for (const hurries of [false, true]) {
    it.scoped(
      hurries ? "that comes twice, and hurries, interrupts handlers at once" : "that interrupts the program twice is as good as once",
      () =>
        Effect.gen(function* () {
          const world = yield* makeAuditedWorld
          const jobsd = yield* world.client()
          const worker = yield* world.worker({ shutdownMillis: hurries ? 20_000 : shutdownMillis, hurries })
          const id = yield* Effect.orDie(jobsd.createRun(Act, { do: "never end" }))
          yield* eventually(
            Effect.sync(() => worker.runs("start")),
            (started) => started.length === 1
          )
          worker.kill("SIGTERM")
          yield* eventually(world.rows("instances", "WHERE state = 1"), (draining) => draining.length === 1)
          worker.kill("SIGTERM")
          const took = yield* timeToExit(worker)
          const state = yield* Effect.orDie(jobsd.getRunState(id))
          report({
            row: 6,
            what: hurries ? "SIGTERM twice, the second one hurries" : "SIGTERM twice, both interrupt",
            database,
            count: 1,
            result: took <= budget && state.status === "ready" ? "passed" : "failed",
            figure: `exit after ${took} ms, budget ${budget} ms, then its run was ${state.status}`
          })
          assert.isAtMost(took, budget)
          assert.deepInclude(state, { status: "ready", attempt: 1 })
        }),
      limit(30, 30)
    )
  }

  it.scoped(
    "while a claim is on its way gives back what it brings, and nothing is claimed afterwards",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 50 })), 6)
        const worker = yield* world.worker({
          workers: 2,
          shutdownMillis,
          faults: [{ at: "claim", when: "after", nth: 1, act: { do: "delay", millis: 800 } }]
        })
        yield* eventually(world.rows("runs", "WHERE state = 1"), (claimed) => claimed.length > 0)
        worker.kill("SIGTERM")
        const took = yield* timeToExit(worker)
        const left = yield* world.rows("runs", "WHERE state = 1")
        const claims = (yield* world.changes).filter(({ to }) => to === 1)
        const afterwards = claims.filter(({ token }) => token !== claims[0]!.token)
        report({
          row: 6,
          what: "SIGTERM while a claim is in flight",
          database,
          count: 1,
          result: took <= budget && left.length === 0 && afterwards.length === 0 ? "passed" : "failed",
          figure: `exit after ${took} ms, budget ${budget} ms, left running ${left.length}, claimed afterwards ${afterwards.length}`
        })
        assert.isAtMost(took, budget)
        assert.lengthOf(left, 0)
        assert.lengthOf(afterwards, 0)
        yield* world.worker()
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.crashes, 0)
      }),
    limit(30, 30)
  )

  it.scoped(
    "while the database does not answer ends the process all the same",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const proxy = database === "sqlite" ? null : yield* startProxy(url)
        const worker = yield* world.worker({ url: proxy?.url ?? url, shutdownMillis })
        const id = yield* Effect.orDie(jobsd.createRun(Act, { do: "never end" }))
        yield* eventually(
          Effect.sync(() => worker.runs("start")),
          (started) => started.length === 1
        )
        // a file that another program has locked comes closest
        const locker = Context.get(yield* Layer.build(clientLayer(url, 1)), SqlClient.SqlClient)
        const silence =
          proxy === null
            ? Effect.acquireRelease(locker.unsafe("BEGIN IMMEDIATE"), () => Effect.orDie(locker.unsafe("COMMIT")))
            : Effect.sync(() => proxy.blackHole(true))
        const took = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* silence
            worker.kill("SIGTERM")
            return yield* timeToExit(worker)
          })
        )
        report({
          row: 6,
          what: "SIGTERM while the database is silent",
          database,
          count: 1,
          result: took <= budget ? "passed" : "failed",
          figure: `exit after ${took} ms, budget ${budget} ms`
        })
        assert.isAtMost(took, budget)
        yield* Effect.orDie(jobsd.cancel(id))
        yield* world.worker()
        yield* allEnded(world)
        assert.deepStrictEqual(defects(yield* world.verdict([id])), noDefects)
      }),
    limit(60, 60)
  )
})
