/** Handlers that end their process, each in its way: all of them are crashes, and nobody else's run is lost by it. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { onEveryDatabase } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { untiring } from "./support/load.js"
import { Act } from "./support/work.js"
import { allEnded, keepAlive, makeAuditedWorld } from "./support/world.js"

onEveryDatabase("a handler that ends its process", (it, database) => {
  const neighbours = 20

  it.scoped(
    "by exiting, or by an exception that nobody catches, has crashed",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (deed: "exit" | "throw outside") =>
          Effect.orDie(jobsd.createRun(Act, { do: deed, millis: 50 }, { retriesOnCrash: 0 }))
        const culprits = [yield* create("exit"), yield* create("throw outside")]
        const others = yield* Effect.replicateEffect(
          Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 100 }, untiring)),
          neighbours
        )
        yield* keepAlive(world, 2)
        yield* allEnded(world)
        const verdict = yield* world.verdict([...culprits, ...others])
        const failed = yield* world.rows<{ readonly id: string; readonly crashes: number; readonly error: string }>(
          "runs",
          "WHERE state = 3"
        )
        const deaths = world.workers.filter((worker) => worker.hasExited()).length
        report({
          row: 9,
          what: "exit and uncaughtException in a handler",
          database,
          count: deaths,
          result: failed.length === 2 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${failed.length} failed after one crash, ${verdict.seen.succeeded} of ${neighbours} neighbours succeeded`
        })
        assert.isAbove(deaths, 0)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.sameMembers(
          failed.map(({ id }) => id),
          culprits
        )
        assert.isTrue(failed.every(({ crashes, error }) => Number(crashes) === 1 && error.includes("died")))
        assert.strictEqual(verdict.seen.succeeded, neighbours)
      }),
    limit(40, 60)
  )

  // a process fights for its memory for a while before it gives up: on one database, unless there is time
  if (large || database === "sqlite") {
    it.scoped(
      "by using all memory fails at its third crash, and its neighbours succeed",
      () =>
        Effect.gen(function* () {
          const world = yield* makeAuditedWorld
          const jobsd = yield* world.client()
          const hoarder = yield* Effect.orDie(jobsd.createRun(Act, { do: "hoard" }))
          const others = yield* Effect.replicateEffect(
            Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 100 }, untiring)),
            neighbours
          )
          yield* keepAlive(world, 2, {}, ["--max-old-space-size=64"])
          yield* allEnded(world)
          const verdict = yield* world.verdict([hoarder, ...others])
          const [row] = yield* world.rows("runs", `WHERE id = '${hoarder}'`)
          // the last of them may be presumed dead before it is
          const deaths = yield* eventually(
            Effect.sync(() => world.workers.filter((worker) => worker.hasExited()).length),
            (count) => count >= 3
          )
          report({
            row: 7,
            what: "out of memory, 64 MB",
            database,
            count: deaths,
            result: Number(row?.state) === 3 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
            figure: `failed after ${row?.crashes} crashes, ${verdict.seen.succeeded} of ${neighbours} neighbours succeeded`
          })
          assert.strictEqual(deaths, 3)
          assert.deepInclude({ state: Number(row?.state), crashes: Number(row?.crashes) }, { state: 3, crashes: 3 })
          assert.deepStrictEqual(defects(verdict), noDefects)
          assert.strictEqual(verdict.seen.succeeded, neighbours)
        }),
      limit(60, 60)
    )
  }
})
