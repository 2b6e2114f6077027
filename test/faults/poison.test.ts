/** A run that kills every process that touches it ends; those that were only near it do not pay for it twice. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { onEveryDatabase } from "../support/databases.js"
import { suspectsOneByOne } from "./engineStories.js"
import { limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { Act } from "./support/work.js"
import { allEnded, keepAlive, makeAuditedWorld } from "./support/world.js"

onEveryDatabase("a poison run", (it, database) => {
  it.scoped(
    "among fifty innocents fails at its third crash, and no innocent crashes more than once",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (millis: number) => Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis }))
        const before = yield* Effect.replicateEffect(create(300), 10)
        const poison = yield* Effect.orDie(jobsd.createRun(Act, { do: "abort", millis: 100 }))
        const after = yield* Effect.replicateEffect(create(300), 40)
        yield* keepAlive(world, 2, { workers: 8 })
        yield* allEnded(world)
        const verdict = yield* world.verdict([poison, ...before, ...after])
        const blamed = yield* world.rows("runs", `WHERE crashes > 1 AND id <> '${poison}'`)
        const near = yield* world.rows("runs", `WHERE crashes > 0 AND id <> '${poison}'`)
        const [row] = yield* world.rows("runs", `WHERE id = '${poison}'`)
        const deaths = world.workers.filter((worker) => worker.hasExited()).length
        report({
          row: 8,
          what: "poison among 50 innocents",
          database,
          count: deaths,
          result: blamed.length === 0 && Number(row?.state) === 3 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${near.length} innocents crashed once, ${blamed.length} more often`
        })
        assert.strictEqual(deaths, 3)
        assert.isAbove(near.length, 0)
        assert.deepInclude({ state: Number(row?.state), crashes: Number(row?.crashes) }, { state: 3, crashes: 3 })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, 50)
        assert.lengthOf(blamed, 0)
      }),
    limit(60, 60)
  )
})

onEveryDatabase("runs that are suspected of killing their process", (it, database) => {
  it.scoped(
    "start on one instance when the one before has lived for ten seconds, and not earlier",
    () =>
      Effect.gen(function* () {
        yield* suspectsOneByOne(null)
        report({
          row: 8,
          what: "three suspects that live on, on one instance",
          database,
          count: 3,
          result: "passed",
          figure: "each started when the one before had lived for 10 s"
        })
      }),
    limit(30, 30)
  )
})
