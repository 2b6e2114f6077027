/** Processes that die at a chosen statement: the library sends it, or has just sent it, and is gone. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { Run } from "jobsd"
import { type DatabaseName, onEveryDatabase } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report, scaled } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import type { Fault } from "./support/faultyClient.js"
import { untiring } from "./support/load.js"
import type { Kind } from "./support/statements.js"
import { Act, Often } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

interface Point {
  readonly at: Kind
  readonly when: Fault["when"]
}

const both = (...kinds: ReadonlyArray<Kind>): ReadonlyArray<Point> =>
  kinds.flatMap((at) => (["before", "after"] as const).map((when) => ({ at, when })))

const after = (...kinds: ReadonlyArray<Kind>) => kinds.map((at): Point => ({ at, when: "after" }))

/** every statement of a working instance that changes something, or decides what is changed; the main ones when time is short */
const pointsAtWork = (database: DatabaseName): ReadonlyArray<Point> => {
  if (!large) {
    return [...both("claim", "settle", "commit"), ...after("register", "heartbeat", "attempt", "successor"), { at: "stop", when: "before" }]
  }
  return [
    ...both("register", "heartbeat", "claim", "begin", "settle", "attempt", "successor", "commit", "drain", "stop"),
    ...(database === "mysql" ? both("claim read", "settle lock") : [])
  ]
}

/** of one who finds runs of the dead */
const pointsInSweep: ReadonlyArray<Point> = large
  ? both("declare dead", "sweep lock", "attempt", "put back", "commit")
  : [...after("declare dead", "sweep lock", "put back"), { at: "commit", when: "before" }]

onEveryDatabase("a process", (it, database) => {
  it.scoped(
    "that dies before or after any statement that it sends costs no run, and records none twice",
    () =>
      Effect.gen(function* () {
        const rounds = scaled(1, 10)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const accepted: Array<Run.RunId> = []
        const unhit: Array<string> = []
        let hit = 0

        const outcomes: ReadonlyArray<Effect.Effect<Run.RunId>> = [
          jobsd.createRun(Act, { do: "succeed", millis: 20 }, untiring),
          jobsd.createRun(Act, { do: "fail", times: 2 }, untiring),
          jobsd.createRun(Act, { do: "fail always" }, { ...untiring, retriesOnError: 1 }),
          jobsd.createRun(Act, { do: "succeed" }, { ...untiring, schedule: Often, limit: 3 }),
          Effect.tap(jobsd.createRun(Act, { do: "never end" }, untiring), (id) =>
            Effect.forkDaemon(Effect.delay(jobsd.cancel(id), "300 millis"))
          )
        ].map(Effect.orDie)
        const feed = Effect.forever(
          Effect.zipRight(
            Effect.forEach(outcomes, (create) => Effect.map(create, (id) => accepted.push(id))),
            Effect.sleep("200 millis")
          )
        )

        const die = (point: Point) =>
          Effect.gen(function* () {
            const victim = yield* world.worker({
              faults: [{ at: point.at, when: point.when, nth: 1, act: { do: "kill" } }],
              workers: 2,
              connections: 2
            })
            if (point.at === "drain" || point.at === "stop") victim.kill("SIGTERM")
            const ended = yield* Effect.either(Effect.timeout(victim.exited, "15 seconds"))
            if (ended._tag === "Right" && ended.right === "SIGKILL") hit++
            else {
              unhit.push(`${point.when} ${point.at}`)
              victim.kill("SIGKILL")
            }
          })

        for (let round = 0; round < rounds; round++) {
          // nobody else is at work, so what they leave behind stays
          const feeding = yield* Effect.forkScoped(feed)
          yield* Effect.forEach(pointsAtWork(database), die, { concurrency: 5, discard: true })
          // on a slow machine the later of them have found what the first ones left
          yield* die({ at: "claim", when: "after" })
          yield* Fiber.interrupt(feeding)
          yield* eventually(world.unsafe("SELECT id FROM @_runs r WHERE state = 1"), (left) => left.length > 0)
          // their leases end, and each who would sweep dies at it
          yield* Effect.sleep("3100 millis")
          yield* Effect.forEach(pointsInSweep, die, { discard: true })
        }
        yield* world.worker({ workers: 8 })
        yield* allEnded(world)
        yield* eventually(world.rows("runs", "WHERE state IN (0, 1, 6)"), (live) => live.length === 0, "60 seconds")
        const verdict = yield* world.verdict(accepted)
        const points = rounds * (pointsAtWork(database).length + 1 + pointsInSweep.length)
        report({
          row: 2,
          what: "SIGKILL before and after each statement",
          database,
          count: hit,
          result: unhit.length === 0 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${hit} of ${points} points hit, ${verdict.seen.runs} runs, lost ${verdict.lost.length}, twice ${verdict.twice.length}`
        })
        assert.deepStrictEqual(unhit, [])
        assert.deepStrictEqual(defects(verdict), noDefects)
      }),
    limit(60, 900)
  )
})
