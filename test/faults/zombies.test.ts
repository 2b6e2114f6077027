/** Instances that could not act for longer than their lease, and come back: nothing that they still try changes a row. */
import { isDeepStrictEqual } from "node:util"
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Context, Effect, Layer, Option } from "effect"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { Act, Often, type Payload } from "./support/work.js"
import { type AuditedWorld, allEnded, makeAuditedWorld } from "./support/world.js"

const startsOf = (workers: ReadonlyArray<{ readonly runs: (word: "start") => ReadonlyArray<string> }>) =>
  Effect.sync(() => new Set(workers.flatMap((worker) => worker.runs("start"))))

/** for how many more milliseconds the leases of the living hold, by SQLite's clock, which is this machine's */
const leasesOf = (world: AuditedWorld) =>
  Effect.map(world.rows<{ readonly lease_until: number }>("instances", "WHERE state IN (0, 1)"), (rows) =>
    rows.map((row) => Number(row.lease_until) - Date.now())
  )

onEveryDatabase("a frozen process", (it, database) => {
  it.scoped(
    "that comes back after its runs were taken over can record nothing: no success, failure, retry, successor or release",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const create = (payload: Payload, options = {}) => Effect.orDie(jobsd.createRun(Act, payload, options))
        // Another one is frozen on its way out: when it comes back, what it had is not its own to give back. It is there before, so that no
        // lease runs out while it starts: it would take over itself, and be frozen with those rows locked.
        const leaver = yield* world.worker({ workers: 1, shutdownMillis: 1000 })
        const kept = yield* create({ do: "never end" }, { retriesOnCrash: Number.POSITIVE_INFINITY })
        yield* eventually(startsOf([leaver]), (started) => started.has(kept))
        const held = [
          yield* create({ do: "succeed" }),
          yield* create({ do: "fail", times: 1, millis: 1000 }),
          yield* create({ do: "fail always", millis: 1000 }, { retriesOnError: 0 }),
          yield* create({ do: "succeed", millis: 1000 }, { schedule: Often, limit: 2 })
        ]
        // until the scheduled one is due, too
        yield* Effect.sleep("300 millis")
        // It claims them all at once; the first outcome is on its way to the database, and the others wait for it. So much later that they
        // never go with it: together they are a transaction, and what a frozen one has locked cannot be taken over.
        const zombie = yield* world.worker({
          workers: 4,
          faults: [{ at: "settle", when: "before", nth: 1, act: { do: "delay", millis: 5000 } }]
        })
        yield* eventually(
          Effect.sync(() => zombie.runs("end")),
          (ended) => ended.length === held.length
        )
        zombie.freeze()
        leaver.kill("SIGTERM")
        yield* eventually(world.rows("instances", "WHERE state = 1"), (draining) => draining.length === 1)
        leaver.freeze()

        const others = yield* Effect.replicateEffect(world.worker(), 3, { concurrency: 3 })
        yield* eventually(startsOf(others), (started) => [...held, kept].every((id) => started.has(id)), "20 seconds")
        zombie.thaw()
        leaver.thaw()
        yield* eventually(
          Effect.sync(() => ({ rejected: zombie.stale(), left: leaver.hasExited() })),
          ({ left, rejected }) => rejected === held.length && left
        )
        assert.lengthOf(yield* world.rows("runs", `WHERE id = '${kept}' AND state = 1`), 1)
        yield* Effect.orDie(jobsd.cancel(kept))
        yield* allEnded(world)
        yield* eventually(world.rows("runs", "WHERE schedule IS NOT NULL AND state = 2"), (ended) => ended.length === 2)
        const verdict = yield* world.verdict([...held, kept])
        const states = yield* world.rows<{ readonly id: string; readonly state: number }>("runs", "WHERE occurrence = 0")
        report({
          row: 11,
          what: "frozen past the lease, taken over, thawed",
          database,
          count: 2,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `rejected ${zombie.stale()} of ${held.length}, recorded stale ${verdict.twice.length}; one on its way out gave nothing back`
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
    "whose release of what it had claimed ahead comes too late gives nothing back",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const workers = 4
        const quick = 10
        // Each quick run is settled by itself, or twice if another process has locked the file; what comes after them is the release. MySQL locks its rows before it writes them,
        // and is stopped before that: locked rows cannot be taken over.
        const zombie = yield* world.worker({
          workers,
          faults: [
            {
              at: database === "mysql" ? "settle lock" : "settle",
              when: "before",
              nth: database === "mysql" ? 1 : quick + 1,
              onwards: true,
              act: { do: "delay", millis: 3000 }
            }
          ]
        })
        for (let i = 0; i < quick; i++) {
          const id = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed" }))
          yield* eventually(world.rows("runs", `WHERE id = '${id}'`), ([row]) => Number(row?.state) === 2)
        }
        // so quick that more is claimed than there are workers; but these do not end
        const endless = Array.from({ length: workers }, () => ({ do: "never end" }) as const)
        const behind = Array.from({ length: 3 }, () => ({ do: "succeed" }) as const)
        const ids = yield* Effect.orDie(jobsd.createRuns(Act, [...endless, ...behind], { retriesOnCrash: Number.POSITIVE_INFINITY }))
        const ahead = ids.slice(workers)
        const rowsAhead = world.rows<{ readonly state: number }>("runs", `WHERE id IN (${ahead.map((id) => `'${id}'`).join(", ")})`)
        const areHeld = (rows: ReadonlyArray<{ readonly state: number }>) => rows.every((row) => Number(row.state) === 1)
        yield* eventually(rowsAhead, areHeld)
        // what waits for 500 ms is given back, and that takes 3 s to be sent
        yield* Effect.sleep("1200 millis")
        zombie.freeze()
        assert.isTrue(areHeld(yield* rowsAhead))
        assert.isFalse(ahead.some((id) => zombie.runs("start").includes(id)))

        // suspects are started one at a time: these would hold up the others
        for (const id of ids.slice(0, workers)) yield* Effect.orDie(jobsd.cancel(id))
        const others = yield* Effect.replicateEffect(world.worker(), 2, { concurrency: 2 })
        yield* eventually(startsOf(others), (started) => ahead.every((id) => started.has(id)), "20 seconds")
        yield* eventually(rowsAhead, (rows) => rows.every((row) => Number(row.state) === 2))
        zombie.thaw()
        yield* eventually(
          Effect.sync(() => zombie.stale()),
          (stale) => stale === ahead.length
        )
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        report({
          row: 11,
          what: "frozen with a release on its way, taken over, thawed",
          database,
          count: 1,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `rejected ${zombie.stale()} of ${ahead.length}`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
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
        // what came to its end under the old lease: for certain that which has kept the event loop, for it was there to end first
        const late = () => zombie.said.flatMap((line) => (line.say === "end" && line.attempt === 1 ? [line.run] : []))
        yield* eventually(
          Effect.sync(() => ({ stale: zombie.stale(), late: late() })),
          ({ late, stale }) => late.length > 0 && stale === late.length,
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
          figure: `event loop stood still ${Math.round(lag)} ms, rejected ${zombie.stale()} of the ${late().length} outcomes that came too late`
        })
        assert.isAbove(lag, 3000)
        assert.include(late(), ids.at(-1))
        assert.strictEqual(zombie.stale(), late().length)
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
  it.scoped(
    database === "sqlite"
      ? "because another program has locked the file interrupts its handlers while its lease still holds, so that no two work on one run"
      : "interrupts its handlers while its lease still holds, so that no two work on one run",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 2500 })), 2)
        // SQLite has one connection, and a heartbeat that hangs would hold it: there, everybody waits for a lock instead
        const hung = database === "sqlite" ? [] : [2, 3, 4, 5, 6]
        const cutOff = yield* world.worker({
          connections: 10,
          faults: hung.map((nth) => ({ at: "heartbeat", when: "before", nth, act: { do: "hang" } }))
        })
        yield* eventually(startsOf([cutOff]), (started) => started.size === ids.length)
        let since = Math.min(...cutOff.said.flatMap((line) => (line.say === "start" ? [line.at] : [])))
        let unlock: Effect.Effect<unknown, unknown> = Effect.void
        if (database === "sqlite") {
          const locker = Context.get(yield* Layer.build(Layer.fresh(clientLayer(url, 1))), SqlClient.SqlClient)
          yield* locker.unsafe("PRAGMA busy_timeout = 0")
          yield* eventually(Effect.option(locker.unsafe("BEGIN IMMEDIATE")), Option.isSome)
          since = Date.now()
          unlock = locker.unsafe("COMMIT")
        } else {
          yield* world.worker()
        }
        // each for the first time: one that is slow to hang may cost the next session the same run again
        const interrupted = Effect.sync(
          () => new Map(cutOff.said.flatMap((line) => (line.say === "interrupted" ? [[line.run, line.at] as const] : [])).reverse())
        )
        const interruptedAt = yield* eventually(interrupted, ({ size }) => size === ids.length)
        // an old lease that has run out is a reason for nobody to wait
        if (database === "sqlite") yield* eventually(leasesOf(world), (left) => left.every((millis) => millis < 0))
        yield* unlock
        if (database === "sqlite") yield* world.worker()
        const took = Math.max(...interruptedAt.values()) - since
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        const unanswered = cutOff.logged("could not renew the lease")
        const trust = 1800
        report({
          row: 15,
          what: database === "sqlite" ? "heartbeats locked out past the lease" : "heartbeats black-holed, the rest passes",
          database,
          count: unanswered,
          result: unanswered > 0 && took <= trust + 300 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `handlers interrupted ${took} ms after ${database === "sqlite" ? "the file was locked" : "they started"}, trust ${trust} ms, overlaps ${verdict.overlaps.unexplained.length}`
        })
        assert.isAbove(unanswered, 0)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.overlaps.explained, 0)
        assert.isAtMost(took, trust + 300)
      }),
    limit(40, 40)
  )
})
