/** A connection that is lost at the worst moment: what the library sent is in the table once, and only once. */
import { isDeepStrictEqual } from "node:util"
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Context, Effect, Layer, Schedule } from "effect"
import type { Run } from "jobsd"
import { clientLayer } from "../support/client.js"
import { type DatabaseName, onEveryDatabase, Target } from "../support/databases.js"
import { counted, eventually, reaches } from "../support/world.js"
import { choicesFor, large, limit, report } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import { startProxy } from "./support/proxy.js"
import type { Kind } from "./support/statements.js"
import { Often } from "./support/work.js"
import { type AuditedWorld, makeAuditedWorld } from "./support/world.js"

/** A way to lose a connection at a statement. */
interface Cutter {
  /** at the next statement of a kind, or the one so many later */
  readonly cut: (at: Kind, when: "before" | "after", nth: number) => void
  readonly cuts: () => number
}

/** A world whose library talks to the database through a client that can lose its connection. */
const withFaultyClient = Effect.gen(function* () {
  const faulty = makeFaulty(yield* SqlClient.SqlClient)
  const world = yield* Effect.provideService(makeAuditedWorld, SqlClient.SqlClient, faulty.sql)
  const cutter: Cutter = { cut: (at, when, nth) => faulty.arm({ at, when, nth, act: { do: "lose" } }), cuts: faulty.struck }
  return { world, cutter }
})

/** The same through a proxy that cuts the connection itself. */
const withProxy = Effect.gen(function* () {
  const { url } = yield* Target
  const proxy = yield* startProxy(url)
  const sql = Context.get(yield* Layer.build(clientLayer(proxy.url)), SqlClient.SqlClient)
  const world = yield* Effect.provideService(makeAuditedWorld, SqlClient.SqlClient, sql)
  const cutter: Cutter = { cut: (at, when, nth) => proxy.arm(at, { do: "cut", when }, nth), cuts: proxy.struck }
  return { world, cutter, proxy }
})

interface Operation {
  readonly what: string
  /** what commits it */
  readonly at: (database: DatabaseName) => Kind
  /** which of several; the first if nothing is said */
  readonly nth?: number
  /** does it, with a cut; the runs that must have ended */
  readonly act: (world: AuditedWorld, cut: () => void) => Effect.Effect<ReadonlyArray<Run.RunId>, unknown>
}

const endless = () => counted("Endless", Effect.never)

/** a createRuns that takes several statements, the next of which is made ready while one is at the database */
const createVeryMany: Operation["act"] = (world, cut) =>
  Effect.gen(function* () {
    const { job } = endless()
    const jobsd = yield* world.client()
    cut()
    const ids = yield* jobsd.createRuns(
      job,
      Array.from({ length: 2501 }, () => undefined),
      { delay: "1 hour" }
    )
    const rows = yield* world.rows<{ readonly id: string }>("runs")
    assert.deepStrictEqual(new Set(rows.map(({ id }) => id)), new Set<string>(ids))
    assert.lengthOf(rows, 2501)
    return []
  })

const operations: ReadonlyArray<Operation> = [
  {
    what: "createRun",
    at: () => "create",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { job, live } = counted("Created")
        const jobsd = yield* world.client()
        cut()
        const id = yield* jobsd.createRun(job, undefined, { unique: "once" })
        assert.deepStrictEqual(
          (yield* world.rows("runs")).map((row) => row.id),
          [id]
        )
        const instance = yield* world.start(live, { jobs: [job] })
        yield* reaches(instance, id, "succeeded")
        return [id]
      }).pipe(Effect.scoped)
  },
  {
    what: "createRuns",
    at: () => "create",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { calls, job, live } = counted("Created")
        const jobsd = yield* world.start(live, { jobs: [job] })
        cut()
        const ids = yield* jobsd.createRuns(job, [undefined, undefined, undefined])
        yield* Effect.forEach(ids, (id) => reaches(jobsd, id, "succeeded"))
        assert.lengthOf(yield* world.rows("runs"), 3)
        assert.lengthOf(calls, 3)
        return ids
      })
  },
  { what: "the second statement of a large createRuns", at: () => "create", nth: 2, act: createVeryMany },
  { what: "the COMMIT of a large createRuns", at: () => "commit", act: createVeryMany },
  {
    what: "register",
    at: () => "register",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { job, live } = counted("Registered")
        cut()
        const jobsd = yield* world.start(live, { jobs: [job] })
        assert.lengthOf(yield* world.rows("instances"), 1)
        const id = yield* jobsd.createRun(job, undefined)
        yield* reaches(jobsd, id, "succeeded")
        return [id]
      })
  },
  {
    what: "claim",
    at: () => "claim",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { calls, job, live } = counted("Claimed", Effect.sleep("50 millis"))
        const jobsd = yield* world.start(live, { jobs: [job], leaseDuration: "3 seconds" })
        cut()
        const id = yield* jobsd.createRun(job, undefined)
        const state = yield* reaches(jobsd, id, "succeeded")
        assert.lengthOf(calls, 1)
        assert.strictEqual(state.attempt, 1)
        return [id]
      })
  },
  {
    what: "settle",
    at: () => "settle",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { calls, job, live } = counted("Settled")
        const jobsd = yield* world.start(live, { jobs: [job] })
        cut()
        const id = yield* jobsd.createRun(job, undefined)
        yield* reaches(jobsd, id, "succeeded")
        assert.lengthOf(calls, 1)
        return [id]
      })
  },
  {
    what: "settle a retry",
    at: () => "commit",
    act: (world, cut) =>
      Effect.gen(function* () {
        let tries = 0
        const work = Effect.suspend(() => (++tries === 1 ? Effect.fail("once") : Effect.void))
        const { calls, job, live } = counted("Retried", work)
        const jobsd = yield* world.start(live, { jobs: [job], backoff: Schedule.spaced("50 millis") })
        cut()
        const id = yield* jobsd.createRun(job, undefined)
        const state = yield* reaches(jobsd, id, "succeeded")
        assert.lengthOf(calls, 2)
        assert.strictEqual(state.retriesOnErrorCount, 1)
        assert.lengthOf(yield* world.rows("attempts"), 1)
        return [id]
      })
  },
  {
    what: "settle with a successor",
    at: () => "commit",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { calls, job, live } = counted("Followed")
        const jobsd = yield* world.start(live, { jobs: [job], schedules: [Often] })
        cut()
        const id = yield* jobsd.createRun(job, undefined, { schedule: Often, limit: 2, unique: "chain" })
        yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === 2)
        assert.lengthOf(calls, 2)
        assert.lengthOf(yield* world.rows("runs"), 2)
        return [id]
      })
  },
  {
    what: "release",
    at: (database) => (database === "mysql" ? "commit" : "settle"),
    act: (world, cut) =>
      Effect.gen(function* () {
        const { job, live } = endless()
        const jobsd = yield* world.start(live, { jobs: [job], shutdownTimeout: 0 })
        const id = yield* jobsd.createRun(job, undefined)
        yield* reaches(jobsd, id, "running")
        cut()
        yield* jobsd.stop
        const client = yield* world.client()
        const state = yield* client.getRunState(id)
        assert.deepInclude(state, { status: "ready", attempt: 1, crashCount: 0 })
        yield* client.cancel(id)
        return [id]
      })
  },
  {
    what: "cancel a waiting run",
    at: () => "cancel",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { job } = endless()
        const jobsd = yield* world.client()
        const id = yield* jobsd.createRun(job, undefined, { delay: "1 hour" })
        cut()
        yield* jobsd.cancel(id)
        assert.strictEqual((yield* jobsd.getRunState(id)).status, "cancelled")
        return [id]
      })
  },
  {
    what: "cancel a running run",
    at: () => "request cancel",
    act: (world, cut) =>
      Effect.gen(function* () {
        const { job, live } = endless()
        const jobsd = yield* world.start(live, { jobs: [job] })
        const id = yield* jobsd.createRun(job, undefined)
        yield* reaches(jobsd, id, "running")
        cut()
        // a heartbeat can end the run before it is asked again
        assert.include(["requested", "cancelled"], yield* jobsd.cancel(id))
        yield* reaches(jobsd, id, "cancelled")
        return [id]
      })
  }
]

onEveryDatabase("a connection lost", (it, database) => {
  const ways =
    database === "sqlite"
      ? ([["in the client", withFaultyClient]] as const)
      : ([
          ["in the client", withFaultyClient],
          ["in a proxy", withProxy]
        ] as const)
  for (const [way, connect] of ways) {
    for (const when of ["before", "after"] as const) {
      for (const { act, at, nth = 1, what } of operations) {
        it.scoped(`${when === "before" ? "before the server has got" : "after the server has done"} ${what}, ${way}, changes nothing`, () =>
          Effect.gen(function* () {
            const { cutter, world } = yield* connect
            const accepted = yield* act(world, () => cutter.cut(at(database), when, nth))
            const verdict = yield* world.verdict(accepted)
            report({
              row: 21,
              what: `connection cut ${when} the server, ${way}`,
              database,
              count: cutter.cuts(),
              result: cutter.cuts() === 1 && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
              figure: `each of ${operations.length} operations applied once`
            })
            assert.strictEqual(cutter.cuts(), 1)
            assert.deepStrictEqual(defects(verdict), noDefects)
          })
        )
      }
    }
  }

  it.scoped.skipIf(database !== "sqlite")("leaves no transaction open when SQLite refuses a COMMIT", () =>
    Effect.gen(function* () {
      const faulty = makeFaulty(yield* SqlClient.SqlClient)
      const world = yield* Effect.provideService(makeAuditedWorld, SqlClient.SqlClient, faulty.sql)
      const { job, live } = counted("Failing", Effect.fail("always"))
      const jobsd = yield* world.start(live, { jobs: [job], retriesOnError: 1, backoff: Schedule.spaced("50 millis") })
      const full = Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" })
      faulty.arm({ at: "commit", when: "before", nth: 1, act: { do: "fail", cause: full } })
      const id = yield* jobsd.createRun(job, undefined)
      yield* reaches(jobsd, id, "failed")
      assert.strictEqual(faulty.struck(), 1)
    })
  )

  it.scoped.skipIf(database === "sqlite")("in one direction only, so that no answer can arrive, changes nothing", () =>
    Effect.gen(function* () {
      const { proxy, world } = yield* withProxy
      const { job, live } = counted("Halved")
      const jobsd = yield* world.start(live, { jobs: [job] })
      proxy.arm("create", { do: "half-close" })
      const first = yield* jobsd.createRun(job, undefined)
      yield* reaches(jobsd, first, "succeeded")
      proxy.arm("settle", { do: "half-close" })
      const second = yield* jobsd.createRun(job, undefined)
      yield* reaches(jobsd, second, "succeeded")
      assert.strictEqual(proxy.struck(), 2)
      assert.lengthOf(yield* world.rows("runs"), 2)
      assert.deepStrictEqual(defects(yield* world.verdict([first, second])), noDefects)
    })
  )

  it.scoped.skipIf(database === "sqlite")(
    "at any byte of the exchange that settles a run changes nothing",
    () =>
      Effect.gen(function* () {
        const { proxy, world } = yield* withProxy
        const { calls, job, live } = counted("Settled")
        const jobsd = yield* world.start(live, { jobs: [job], workers: 1 })
        const run = (byte: number) =>
          Effect.gen(function* () {
            proxy.arm("settle", { do: "cut at", byte })
            const id = yield* jobsd.createRun(job, undefined)
            yield* reaches(jobsd, id, "succeeded")
            proxy.disarm()
            return id
          })
        const accepted = [yield* run(Number.POSITIVE_INFINITY)]
        const length = proxy.bytes()
        const choose = choicesFor(`bytes on ${database}`)
        const positions = large
          ? Array.from({ length }, (_, i) => i)
          : [0, 1, length - 1, ...Array.from({ length: 9 }, () => Math.floor(choose.between(2, length - 1)))]
        for (const byte of positions) accepted.push(yield* run(byte))
        const verdict = yield* world.verdict(accepted)
        report({
          row: 22,
          what: "cut at byte n of a settlement",
          database,
          count: proxy.struck(),
          result: calls.length === accepted.length && isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${positions.length} of ${length} positions, ${accepted.length} runs executed ${calls.length} times`
        })
        assert.strictEqual(proxy.struck(), positions.length)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.lengthOf(calls, accepted.length)
      }),
    limit(40, 900)
  )
})
