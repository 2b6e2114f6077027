/** Instances that could not act for longer than their lease, and come back: nothing that they still try changes a row. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { onEveryDatabase } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { Act, Often, type Payload } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

const startsOf = (workers: ReadonlyArray<{ readonly runs: (word: "start") => ReadonlyArray<string> }>) =>
  Effect.sync(() => new Set(workers.flatMap((worker) => worker.runs("start"))))

onEveryDatabase("a frozen process", (it, database) => {
  it.scoped(
    "that comes back after its runs were taken over can record nothing: no success, failure, retry, successor or release",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (payload: Payload, options = {}) => Effect.orDie(jobsd.createRun(Act, payload, options))
        const held = [
          yield* create({ do: "succeed" }),
          yield* create({ do: "fail", times: 1, millis: 300 }),
          yield* create({ do: "fail always", millis: 300 }, { retriesOnError: 0 }),
          yield* create({ do: "succeed", millis: 300 }, { schedule: Often, limit: 2 })
        ]
        // until the scheduled one is due, too
        yield* Effect.sleep("300 millis")
        // it claims them all at once; the first outcome is on its way to the database, and the others wait for it
        const zombie = yield* world.worker({
          workers: 4,
          faults: [{ at: "settle", when: "before", nth: 1, act: { do: "delay", millis: 2500 } }]
        })
        yield* eventually(
          Effect.sync(() => zombie.runs("end")),
          (ended) => ended.length === held.length
        )
        zombie.freeze()
        // another one is frozen on its way out: when it comes back it releases what it had
        const leaver = yield* world.worker({ workers: 1, shutdownMillis: 1000 })
        const kept = yield* create({ do: "never end" }, { retriesOnCrash: Number.POSITIVE_INFINITY })
        yield* eventually(startsOf([leaver]), (started) => started.has(kept))
        leaver.kill("SIGTERM")
        yield* eventually(world.rows("instances", "WHERE state = 1"), (draining) => draining.length === 1)
        leaver.freeze()

        const others = yield* Effect.replicateEffect(world.worker(), 3, { concurrency: 3 })
        yield* eventually(startsOf(others), (started) => [...held, kept].every((id) => started.has(id)), "20 seconds")
        zombie.thaw()
        leaver.thaw()
        yield* eventually(
          Effect.sync(() => [zombie.stale(), leaver.stale()]),
          ([ofZombie, ofLeaver]) => ofZombie === held.length && ofLeaver === 1
        )
        yield* Effect.orDie(jobsd.cancel(kept))
        yield* allEnded(world)
        yield* eventually(world.rows("runs", "WHERE schedule IS NOT NULL AND state = 2"), (ended) => ended.length === 2)
        const verdict = yield* world.verdict([...held, kept])
        const states = yield* world.rows<{ readonly id: string; readonly state: number }>("runs", "WHERE occurrence = 0")
        report({
          row: 11,
          what: "frozen past the lease, taken over, thawed (rows 11, 12)",
          database,
          count: 2,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `rejected ${zombie.stale() + leaver.stale()} of ${held.length + 1}, recorded stale ${verdict.twice.length}`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.deepStrictEqual(
          [...held, kept].map((id) => Number(states.find((row) => row.id === id)?.state)),
          [2, 2, 3, 2, 4]
        )
      }),
    limit(40, 60)
  )

  it.scoped(
    "whose runs nobody took over gives its lease up before it claims again, and each run has one outcome",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const zombie = yield* world.worker({ workers: 2 })
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 1000 })), 4)
        yield* eventually(startsOf([zombie]), (started) => started.size === 2)
        zombie.freeze()
        yield* Effect.sleep("3500 millis")
        const before = yield* world.changes
        zombie.thaw()
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        const first = new Set(before.flatMap(({ owner }) => (owner === null ? [] : [owner])))
        const reclaimed = (yield* world.changes).slice(before.length).filter(({ from, to }) => to === 1 && from !== 1)
        report({
          row: 13,
          what: "frozen past the lease, nobody there",
          database,
          count: 1,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${verdict.seen.succeeded} of ${ids.length} succeeded, ${reclaimed.filter(({ owner }) => first.has(owner!)).length} claims under the old lease`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, ids.length)
        assert.isAbove(reclaimed.length, 0)
        assert.deepStrictEqual(
          reclaimed.filter(({ owner }) => first.has(owner!)),
          []
        )
      }),
    limit(30, 30)
  )

  // it says little about the database: on one of them, unless there is time
  const busy = large || database === "postgres" ? it.scoped : it.scoped.skip

  busy(
    "that froze itself with a busy loop loses its runs once, and what it has done meanwhile is not recorded",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (payload: Payload) => Effect.orDie(jobsd.createRun(Act, payload))
        const zombie = yield* world.worker({ workers: 4 })
        const ids = yield* Effect.replicateEffect(create({ do: "succeed", millis: 1500 }), 3)
        yield* eventually(startsOf([zombie]), (started) => started.size === 3)
        ids.push(yield* create({ do: "busy", millis: 5000, times: 1 }))
        const other = yield* world.worker()
        yield* eventually(
          Effect.sync(() => zombie.stale()),
          (stale) => stale > 0,
          "20 seconds"
        )
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        const crashes = yield* world.rows<{ readonly crashes: number }>("runs")
        const lag = Math.max(...zombie.lags())
        report({
          row: 14,
          what: "busy loop of 5 s, lease 3 s",
          database,
          count: 1,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `event loop stood still ${Math.round(lag)} ms, rejected ${zombie.stale()} of ${ids.length}`
        })
        assert.isAbove(lag, 3000)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, ids.length)
        assert.deepStrictEqual(
          crashes.map((row) => Number(row.crashes)),
          [1, 1, 1, 1]
        )
        assert.isAbove(other.runs("end").length, 0)
      }),
    limit(40, 40)
  )
})

onEveryDatabase("an instance whose heartbeats get no answer", (it, database) => {
  // SQLite has one connection, and a heartbeat that hangs would hold it: nothing else would pass
  const test = database === "sqlite" ? it.scoped.skip : it.scoped

  test(
    "interrupts its handlers while its lease still holds, so that no two work on one run",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 2500 })), 2)
        const hung = [2, 3, 4, 5, 6]
        const cutOff = yield* world.worker({
          connections: 10,
          faults: hung.map((nth) => ({ at: "heartbeat", when: "before", nth, act: { do: "hang" } }))
        })
        yield* eventually(startsOf([cutOff]), (started) => started.size === ids.length)
        const started = Math.min(...cutOff.said.flatMap((line) => (line.say === "start" ? [line.at] : [])))
        yield* world.worker()
        yield* eventually(
          Effect.sync(() => cutOff.runs("interrupted")),
          (interrupted) => interrupted.length === ids.length
        )
        const took = Math.max(...cutOff.said.flatMap((line) => (line.say === "interrupted" ? [line.at - started] : [])))
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        const trust = 1800
        report({
          row: 15,
          what: "heartbeats black-holed, the rest passes",
          database,
          count: hung.length,
          result: took <= trust + 300 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `handlers interrupted ${took} ms after they started, trust ${trust} ms, overlaps ${verdict.overlaps.unexplained.length}`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.overlaps.explained, 0)
        assert.isAtMost(took, trust + 300)
      }),
    limit(40, 40)
  )
})
