/** Clocks that are wrong, that jump, and that are put forward and back twice a year: none of them moves a run. */
import { readFileSync } from "node:fs"
import { SqlClient } from "@effect/sql"
import { assert, describe, it as plain, vi } from "@effect/vitest"
import {
  Context,
  Cron,
  DateTime,
  Deferred,
  Effect,
  Either,
  Exit,
  Fiber,
  FastCheck as fc,
  Layer,
  Option,
  PubSub,
  Stream,
  TestClock,
  TestContext
} from "effect"
import { JobSchedule, type Run } from "jobsd"
import { aBreath } from "../../src/internal/aBreath.js"
import { nextMoment } from "../../src/internal/lifecycle.js"
import type { Database } from "../../src/internal/storage/database.js"
import * as hints from "../../src/internal/storage/hints.js"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { counted, eventually, makeWorld, reaches } from "../support/world.js"
import { choicesFor, large, limit, report, scaled, seed } from "./support/campaign.js"
import { defects } from "./support/checker.js"
import type { Wanted } from "./support/clockProducer.js"
import { databaseNow, historyOf, jump, offBy, produce, seenOff, steppedClient } from "./support/clocks.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import { Act, Often } from "./support/work.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

const second = 1000
const minute = 60 * second
const hour = 60 * minute

/** in whole seconds, as a clock is set */
const until = (moment: string) => Math.floor((Date.parse(moment) - Date.now()) / second) * second

const wrongClocks = () => [
  { clock: "an hour ahead", off: hour },
  { clock: "a day behind", off: -24 * hour },
  { clock: "in 1970", off: until("1970-01-01") },
  { clock: "in 2100", off: until("2100-01-01") }
]

/** how late a run may start beside all other tests; a clock that were believed would be off by an hour at least */
const lateAllowed = 5000
const leaseMillis = 3000

/** The zone of Berlin, as far as 2026 goes, on a server that has not been told any zones; removed again. */
const berlinOn = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const tell = (text: string) => Effect.orDie(sql.unsafe<Record<string, unknown>>(text).unprepared)
    const [known] = yield* tell("SELECT CONVERT_TZ('2026-07-01 00:00:00', 'UTC', 'Europe/Berlin') AS there")
    if (known!.there !== null) return "Europe/Berlin"
    const zone = "jobsd/Berlin"
    const id = 987654
    yield* Effect.acquireRelease(
      Effect.all([
        tell(`INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (${id}, 'N')`),
        tell(`INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('${zone}', ${id})`),
        tell(`INSERT INTO mysql.time_zone_transition_type (Time_zone_id, Transition_type_id, \`Offset\`, Is_DST, Abbreviation)
          VALUES (${id}, 0, 3600, 0, 'CET'), (${id}, 1, 7200, 1, 'CEST')`),
        tell(`INSERT INTO mysql.time_zone_transition (Time_zone_id, Transition_time, Transition_type_id)
          VALUES (${id}, ${Date.parse("2026-03-29T01:00:00Z") / second}, 1), (${id}, ${Date.parse("2026-10-25T01:00:00Z") / second}, 0)`)
      ]),
      () =>
        Effect.forEach(["time_zone", "time_zone_name", "time_zone_transition_type", "time_zone_transition"], (table) =>
          tell(`DELETE FROM mysql.${table} WHERE Time_zone_id = ${id}`)
        )
    )
    return zone
  })

interface RunRow {
  readonly id: string
  readonly state: number
  readonly priority: number
  readonly run_at: unknown
  readonly created_at: unknown
}

interface InstanceRow {
  readonly id: string
  readonly state: number
  readonly seen_at: unknown
  readonly lease_until: unknown
}

onEveryDatabase("a wrong clock", (it, database) => {
  it.scoped(
    "of producers and workers, from the start, changes no order, no due time and no lease",
    () =>
      Effect.gen(function* () {
        const choose = choicesFor(`wrong clocks on ${database}`)
        let longest = 0
        let runs = 0
        let processes = 0
        let faults: ReadonlyArray<string> = []

        const round = (which: number) =>
          Effect.gen(function* () {
            const world = yield* makeAuditedWorld
            const { url } = yield* Target
            const jobsd = yield* world.client()
            const now = databaseNow(world.sql)
            const clocks = wrongClocks()

            // what is created
            const before = yield* now
            const wanted = (): ReadonlyArray<Wanted> => [
              ...Array.from({ length: 3 }, () => ({
                payload: { do: "succeed" as const },
                priority: choose.oneOf([0, 5, 9]),
                runAt: before - Math.round(choose.between(1, 60)) * second
              })),
              { payload: { do: "succeed" }, priority: choose.oneOf([0, 5, 9]) },
              { payload: { do: "succeed" }, delayMillis: 3000 },
              { payload: { do: "succeed" }, delayMillis: hour },
              { payload: { do: "succeed" }, delayMillis: hour, scheduled: true }
            ]
            const plans = clocks.map((clock) => ({ ...clock, runs: wanted() }))
            const produced = yield* Effect.forEach(plans, ({ off, runs }) => produce({ url, prefix: world.prefix, runs }, offBy(off)), {
              concurrency: 4
            })
            const after = yield* now
            const created = new Map((yield* world.rows<RunRow>("runs")).map((row) => [row.id, row]))
            const backlog: Array<RunRow> = []
            const later: Array<Run.RunId> = []
            const wrongDue: Array<string> = []
            for (const [p, { clock, off, runs }] of plans.entries()) {
              assert.lengthOf(produced[p]!, runs.length)
              for (const [i, { at, id }] of produced[p]!.entries()) {
                const row = created.get(id)!
                const { delayMillis = 0, runAt, scheduled = false } = runs[i]!
                const createdAt = Number(row.created_at)
                const dueAt = Number(row.run_at)
                assert.closeTo(at - createdAt, off, minute, `the clock of the producer ${clock}`)
                const earliest = (runAt ?? (scheduled ? before : createdAt)) + delayMillis + (scheduled ? 200 : 0)
                const latest = scheduled ? earliest + after - before : earliest
                if (createdAt < before || createdAt > after) wrongDue.push(`${clock}: created ${createdAt - before} ms after the start`)
                if (dueAt < earliest || dueAt > latest) wrongDue.push(`${clock}: due ${dueAt - earliest} ms after it should be`)
                if (delayMillis === 0) backlog.push(row)
                if (delayMillis === hour) later.push(id)
              }
            }

            assert.deepStrictEqual(wrongDue, [])

            // in which order one worker takes it
            const { clock, off } = clocks[which % clocks.length]!
            const first = yield* world.worker({ workers: 1 }, offBy(off))
            yield* eventually(
              Effect.sync(() => first.runs("start")),
              (started) => backlog.every(({ id }) => started.includes(id)),
              "20 seconds"
            )
            const order = first.runs("start").filter((id) => backlog.some((row) => row.id === id))
            const sorted = [...backlog].sort(
              (a, b) => a.priority - b.priority || Number(a.run_at) - Number(b.run_at) || (a.id < b.id ? -1 : 1)
            )

            // and the others with it. Each has something at work for longer than the lease, which a wrong sweep would take.
            const create = (payload: typeof Act.payloadSchema.Type, options = {}) => Effect.orDie(jobsd.createRun(Act, payload, options))
            const createLong = create({ do: "succeed", millis: leaseMillis + 600 })
            const long = [yield* createLong]
            const wrong = clocks.filter((other) => other.clock !== clock)
            const givenTo = [off, ...wrong.map(({ off }) => off), 0]
            const workers = [
              first,
              ...(yield* Effect.forEach(givenTo.slice(1), (off) => world.worker({ workers: 4 }, off === 0 ? [] : offBy(off)), {
                concurrency: 4
              }))
            ]
            const readyAt = yield* now
            const hasLong = Effect.sync(() => workers.map((worker) => long.filter((id) => worker.runs("start").includes(id)).length))
            while ((yield* hasLong).some((count) => count === 0) && long.length < 40) {
              const started = long.push(yield* createLong)
              yield* eventually(hasLong, (held) => held.reduce((sum, count) => sum + count) === started)
            }
            assert.notInclude(yield* hasLong, 0, "each has one")
            const own = [
              yield* create({ do: "succeed" }, { schedule: Often, limit: 4 }),
              ...(yield* Effect.replicateEffect(create({ do: "succeed" }, { delay: "600 millis" }), 4))
            ]
            const retried = yield* create({ do: "fail", times: 1 })
            const overrun = yield* create({ do: "never end" }, { timeout: "700 millis", retriesOnTimeout: 0 })
            yield* eventually(world.rows("runs", "WHERE state IN (0, 1, 5, 6)"), (live) => live.length === later.length, "20 seconds")
            const instances = yield* world.rows<InstanceRow>("instances")
            const seenBy = yield* now
            for (const id of later) assert.strictEqual(yield* Effect.orDie(jobsd.cancel(id)), "cancelled")

            // what was seen
            const changes = yield* world.changes
            const rows = new Map((yield* world.rows<RunRow>("runs")).map((row) => [row.id, row]))
            const claims = changes.filter(({ from, to }) => to === 1 && from !== 1)
            const claimsOf = (id: string) => claims.filter(({ run }) => run === id)
            const early = claims.filter(({ at, run }) => run !== retried && at < Number(rows.get(run)!.run_at))
            const punctual = claims.filter(({ run }) => !long.some((id) => id === run) && !backlog.some(({ id }) => id === run))
            const lateness = punctual.map(({ at, run }) => at - Math.max(Number(rows.get(run)!.run_at), readyAt))
            const chain = [...rows.values()]
              .filter(({ id }) => changes.some(({ origin, run }) => run === id && origin === own[0]))
              .map((row) => Number(row.run_at))
              .sort((a, b) => a - b)
            const failedOnce = changes.find(({ errors, from, run, to }) => run === retried && from === 1 && to === 0 && errors === 1)!
            // what was claimed ahead may have been given back before
            const firstTry = claimsOf(retried).findLast(({ seq }) => seq < failedOnce.seq)
            const secondTry = claimsOf(retried).find(({ seq }) => seq > failedOnce.seq)
            const retryAt = Number(rows.get(retried)!.run_at)
            // a failure is seen some time after the statement has read the clock for when it is tried again
            const isRetryDue = retryAt >= firstTry!.at + 100 && retryAt <= failedOnce.at + 100
            const retryLate = secondTry!.at - retryAt
            const timedOutAfter = changes.find(({ run, to }) => run === overrun && to === 3)!.at - claimsOf(overrun).at(-1)!.at
            const all = workers.flatMap((worker) => worker.runs("start"))
            const verdict = yield* world.verdict(
              [...created.keys(), ...own, retried, overrun, ...long] as Array<Run.RunId>,
              historyOf(workers)
            )

            longest = Math.max(longest, ...lateness)
            runs += rows.size
            processes += 2 * clocks.length
            // each process lived by the clock it was given
            for (const [i, worker] of workers.entries()) {
              const given = givenTo[i]!
              assert.deepStrictEqual(seenOff(worker), given === 0 ? [] : [given])
              for (const line of worker.said) {
                if (line.say === "start") assert.closeTo(line.at - claimsOf(line.run)[0]!.at, given, minute)
              }
            }
            return [
              ...(order.join() === sorted.map(({ id }) => id).join() ? [] : [`${clock}: taken in another order`]),
              ...early.map(({ run }) => `${run} started early`),
              ...lateness.filter((late) => late > lateAllowed).map((late) => `started ${late} ms late`),
              ...(chain.length === 4 && chain.every((at, i) => i === 0 || at >= chain[i - 1]! + 200)
                ? []
                : [`a chain due at ${chain.join()}`]),
              ...(isRetryDue ? [] : [`to be retried ${retryAt - failedOnce.at} ms after its failure`]),
              ...(retryLate >= 0 && retryLate < lateAllowed ? [] : [`retried ${retryLate} ms late`]),
              ...(timedOutAfter >= 700 && timedOutAfter < 700 + lateAllowed ? [] : [`timed out after ${timedOutAfter} ms`]),
              ...[...rows.keys()].flatMap((id) => {
                const starts = all.filter((run) => run === id).length
                const expected = later.some((run) => run === id) ? 0 : id === retried ? 2 : 1
                return starts === expected ? [] : [`${id} started ${starts} times`]
              }),
              ...(instances.length === workers.length ? [] : [`${instances.length} instances`]),
              ...instances.flatMap(({ lease_until, seen_at, state }) => {
                const lease = Number(lease_until) - Number(seen_at)
                const silent = seenBy - Number(seen_at)
                return Number(state) === 0 && lease === leaseMillis && silent >= -second && silent < leaseMillis
                  ? []
                  : [`an instance in state ${state}, its lease ${lease} ms, silent for ${silent} ms`]
              }),
              ...(verdict.seen.crashes === 0 ? [] : [`${verdict.seen.crashes} runs taken from a living instance`]),
              ...workers.flatMap((worker) => (worker.stale() === 0 ? [] : [`${worker.stale()} outcomes rejected`])),
              ...Object.entries(defects(verdict)).flatMap(([kind, found]) => found.map((text) => `${kind}: ${text}`))
            ]
          })

        const rounds = scaled(1, 8)
        const start = ["sqlite", "postgres", "mysql"].indexOf(database)
        for (let i = 0; i < rounds; i++) faults = [...faults, ...(yield* Effect.scoped(round(start + i)))]
        report({
          row: 41,
          what: "clocks an hour ahead, a day behind, in 1970, in 2100",
          database,
          count: processes,
          result: faults.length === 0 ? "passed" : "failed",
          figure: `${runs} runs, none early, at most ${longest} ms late, wrong ${faults.length}`
        })
        assert.deepStrictEqual(faults, [])
      }),
    { ...limit(60, 400), concurrent: true }
  )

  it.scoped(
    "that jumps while runs are at work ends no run and no lease, and timeouts take as long as they should",
    () =>
      Effect.gen(function* () {
        const took: Array<number> = []
        let jumps = 0
        let faults: ReadonlyArray<string> = []
        const timeoutMillis = leaseMillis + 1200

        const round = Effect.gen(function* () {
          const world = yield* makeAuditedWorld
          const jobsd = yield* world.client()
          const now = databaseNow(world.sql)
          const create = (payload: typeof Act.payloadSchema.Type, options = {}) => Effect.orDie(jobsd.createRun(Act, payload, options))
          const forth = [hour, -2 * hour, 2 * hour, -hour]
          const back = forth.map((by) => -by)
          const jumpers = yield* Effect.forEach([forth, back], (by) => world.worker({ workers: 2 }, offBy(0, by)), { concurrency: 2 })
          const hung = yield* Effect.replicateEffect(create({ do: "never end" }, { timeout: timeoutMillis, retriesOnTimeout: 0 }), 4)
          yield* eventually(
            Effect.sync(() => jumpers.map((worker) => worker.runs("start").length)),
            (started) => started.every((count) => count === 2)
          )
          // one whose clock stays right, to see that others are not taken for dead
          const right = yield* world.worker()
          const meanwhile = [yield* create({ do: "succeed" }, { schedule: Often, limit: 8 })]
          const jumpAll = Effect.gen(function* () {
            const jumpedAt = yield* now
            yield* Effect.forEach(jumpers, jump, { concurrency: 2 })
            jumps += jumpers.length
            meanwhile.push(yield* create({ do: "succeed", millis: 50 }, { delay: "300 millis" }))
            // each has renewed its lease by its new clock
            yield* eventually(world.rows<InstanceRow>("instances"), (instances) =>
              instances.every(({ seen_at, state }) => Number(state) !== 0 || Number(seen_at) > jumpedAt)
            )
          })
          yield* Effect.repeatN(jumpAll, 2)
          yield* eventually(world.rows("runs", "WHERE state = 3"), (failed) => failed.length === hung.length, "20 seconds")
          yield* jumpAll
          // and they go on
          const goneOn = Effect.sync(() => jumpers.map((worker) => worker.runs("end").length))
          while ((yield* goneOn).some((ended) => ended === 0)) {
            meanwhile.push(...(yield* Effect.replicateEffect(create({ do: "succeed", millis: 100 }), 8)))
            yield* allEnded(world)
          }
          yield* eventually(world.rows("runs", "WHERE state IN (0, 1, 5, 6)"), (live) => live.length === 0)

          const instances = yield* world.rows<InstanceRow>("instances", "WHERE state = 0")
          const changes = yield* world.changes
          const durations = hung.map((id) => {
            const [start, end] = [1, 3].map(
              (state) => changes.findLast(({ from, run, to }) => run === id && from !== to && to === state)!.at
            )
            return end! - start!
          })
          const early = yield* world.rows("runs", "WHERE started_at < run_at")
          const workers = [...jumpers, right]
          const verdict = yield* world.verdict([...hung, ...meanwhile], historyOf(workers))
          took.push(...durations)
          for (const [worker, by] of [
            [jumpers[0]!, forth],
            [jumpers[1]!, back]
          ] as const) {
            let off = 0
            assert.deepStrictEqual(seenOff(worker), [0, ...by.map((millis) => (off += millis))])
          }
          return [
            ...durations.flatMap((millis) =>
              millis >= timeoutMillis && millis < timeoutMillis + lateAllowed ? [] : [`timed out after ${millis} ms`]
            ),
            ...early.map(() => "started early"),
            ...(instances.length === workers.length ? [] : [`${instances.length} instances alive`]),
            ...(verdict.seen.crashes === 0 ? [] : [`${verdict.seen.crashes} runs taken from a living instance`]),
            ...workers.flatMap((worker) => (worker.stale() === 0 ? [] : [`${worker.stale()} outcomes rejected`])),
            ...Object.entries(defects(verdict)).flatMap(([kind, found]) => found.map((text) => `${kind}: ${text}`))
          ]
        })

        for (let i = 0; i < scaled(1, 10); i++) faults = [...faults, ...(yield* Effect.scoped(round))]
        report({
          row: 41,
          what: "clocks that jump an hour forth and back",
          database,
          count: jumps,
          result: faults.length === 0 ? "passed" : "failed",
          figure: `timeouts of ${timeoutMillis} ms took ${Math.min(...took)} to ${Math.max(...took)} ms, wrong ${faults.length}`
        })
        assert.deepStrictEqual(faults, [])
      }),
    { ...limit(60, 400), concurrent: true }
  )

  it.scoped(
    "of the database, as far as statements can tell, lets nobody be taken for dead when it jumps by two minutes; who is dead still is, later",
    () =>
      Effect.gen(function* () {
        const stepped = steppedClient(yield* SqlClient.SqlClient)
        const { sql } = stepped
        const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, sql)
        const now = databaseNow(sql)
        const release = yield* Deferred.make<void>()
        const { calls, job, live } = counted("Patient", Deferred.await(release))
        const options = { jobs: [job], workers: 2, leaseDuration: 2 * leaseMillis } as const
        const jobsd = yield* world.start(live, options)
        yield* world.start(live, options)
        const ids = yield* Effect.replicateEffect(Effect.orDie(jobsd.createRun(job, undefined)), 4)
        yield* eventually(
          Effect.sync(() => calls.length),
          (started) => started === 4
        )
        const living = yield* world.rows<InstanceRow>("instances")
        assert.lengthOf(living, 2)

        const steps = scaled(2, 20)
        let seemedDead = 0
        let declared = 0
        for (let i = 0; i < steps; i++) {
          const by = i % 2 === 0 ? 2 * minute : -2 * minute
          stepped.step(by)
          const steppedAt = yield* now
          if (by > 0) {
            // whether a sweep or a heartbeat comes first is chance: until a sweep has seen leases that are over
            while (stepped.expired() === 0) {
              yield* Effect.sleep("250 millis")
              if (stepped.expired() === 0) stepped.step(by)
            }
            seemedDead++
          }
          // one that is dead, which is found when the clock is believed again: until then the living have renewed their leases
          yield* world.unsafe(`INSERT INTO @_instances (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
            SELECT '0000000${i % 10}-0000-7000-8000-00000000000${Math.floor(i / 10)}', host, pid, state, jobs, schedules, queues, 0, started_at, seen_at, counts
            FROM @_instances WHERE id = '${living[0]!.id}'`)
          yield* eventually(world.rows("instances", "WHERE state = 3"), (dead) => dead.length === i + 1)
          declared++
          yield* eventually(world.rows<InstanceRow>("instances", "WHERE state = 0"), (instances) =>
            instances.every(({ seen_at }) => Number(seen_at) >= steppedAt)
          )
          assert.sameMembers(
            (yield* world.rows<InstanceRow>("instances", "WHERE state = 0")).map(({ id }) => id),
            living.map(({ id }) => id)
          )
        }
        yield* Deferred.succeed(release, undefined)
        for (const id of ids) yield* reaches(jobsd, id, "succeeded")
        const troubled = yield* world.rows("runs", "WHERE crashes > 0 OR timeouts > 0 OR errors > 0")
        const attempts = yield* world.rows("attempts")
        report({
          row: 42,
          what: "the database's clock, as statements see it, jumps by 2 minutes",
          database,
          count: steps,
          result: troubled.length === 0 && attempts.length === 0 && calls.length === 4 ? "passed" : "failed",
          figure: `leases that seemed over ${seemedDead} times, rescued ${troubled.length}, dead found ${declared} of ${steps}`
        })
        assert.isAbove(stepped.replaced(), 0)
        assert.deepStrictEqual(troubled, [])
        assert.deepStrictEqual(attempts, [])
        assert.lengthOf(calls, 4)
      }),
    { ...limit(40, 200), concurrent: true }
  )

  it.scoped(
    "change in autumn neither refuses a first run nor ends a chain, and the repeated hour is used once",
    () =>
      Effect.gen(function* () {
        const { sql, step } = steppedClient(yield* SqlClient.SqlClient)
        const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, sql)
        yield* world.migrate
        const set = (moment: string) => Effect.map(databaseNow(sql), (now) => step(Date.parse(moment) - now))
        const QuarterHourly = JobSchedule.cron("QuarterHourly", "*/15 * * * *", "Europe/Berlin")
        const { calls, job, live } = counted("Chain")
        const client = yield* world.client()
        yield* set("2026-10-25T02:10:00+02:00")
        const id = yield* client.createRun(job, undefined, { schedule: QuarterHourly, limit: 3 })
        // it is late, and what follows it is found in the second pass of the hour
        yield* set("2026-10-25T02:10:00+01:00")
        const second = yield* client.createRun(job, undefined, { schedule: QuarterHourly, delay: "1 minute" })
        const jobsd = yield* world.start(live, { jobs: [job], schedules: [QuarterHourly], leaseDuration: leaseMillis })
        yield* eventually(jobsd.getRunState(id), ({ occurrence }) => occurrence === 1)
        yield* set("2026-10-25T02:59:59+01:00")
        yield* eventually(jobsd.getRunState(id), ({ occurrence }) => occurrence === 2)
        const chain = yield* world.rows<RunRow>("runs", `WHERE origin_id = '${id}' ORDER BY occurrence`)
        const moments = chain.map((row) => new Date(Number(row.run_at)).toISOString())
        const expected = ["2026-10-25T02:15:00+02:00", "2026-10-25T03:00:00+01:00", "2026-10-25T03:15:00+01:00"].map((moment) =>
          new Date(moment).toISOString()
        )
        const first = yield* world.rows<RunRow>("runs", `WHERE id = '${second}'`)
        report({
          row: 43,
          what: "a late chain in the repeated hour",
          database,
          count: 1,
          result: moments.join() === expected.join() ? "passed" : "failed",
          figure: `due ${moments.join(", ")}`
        })
        assert.deepStrictEqual(moments, expected)
        assert.strictEqual(new Date(Number(first[0]!.run_at)).toISOString(), expected[1])
        assert.deepStrictEqual(
          calls.filter(({ originId }) => originId === id).map((run) => run.runAt.epochMillis),
          expected.slice(0, 2).map((moment) => Date.parse(moment))
        )
      }),
    { ...limit(40, 40), concurrent: true }
  )

  // the clock of this process is set, which those above live by: not beside them
  it.scoped(
    "that jumps while the database refuses makes createRun neither give up at once nor try for longer",
    () =>
      Effect.gen(function* () {
        const faulty = makeFaulty(yield* SqlClient.SqlClient)
        const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
        yield* world.migrate
        const jobsd = yield* world.client()
        const conflict = { code: { sqlite: "SQLITE_BUSY", postgres: "40001", mysql: "ER_LOCK_DEADLOCK" }[database] }
        const trueNow = Date.now
        const createWhile = (jumpMillis: number, conflictMillis: number) =>
          Effect.gen(function* () {
            faulty.arm({ at: "create", when: "before", act: { do: "fail", cause: conflict } })
            const before = faulty.struck()
            const fiber = yield* Effect.fork(Effect.exit(jobsd.createRun(Act, { do: "succeed" })))
            yield* eventually(
              Effect.sync(() => faulty.struck() - before),
              (struck) => struck > 2
            )
            const clock = vi.spyOn(Date, "now").mockImplementation(() => trueNow() + jumpMillis)
            const begun = performance.now()
            yield* Effect.raceFirst(Effect.sleep(conflictMillis), Fiber.await(fiber))
            faulty.disarm()
            const exit = yield* Fiber.join(fiber)
            clock.mockRestore()
            return { exit, took: Math.round(performance.now() - begun) }
          })
        const forth = yield* createWhile(hour, 500)
        // its patience of ten seconds has to be awaited for this one
        const back = large ? yield* createWhile(-hour, 30_000) : null
        report({
          row: 41,
          what: "the clock jumps while the database refuses",
          database,
          count: large ? 2 : 1,
          result: Exit.isSuccess(forth.exit) && (back === null || back.took < 15_000) ? "passed" : "failed",
          figure: `refused for ${forth.took} ms, then created${back === null ? "" : `; given up after ${back.took} ms`}`
        })
        assert.isTrue(Exit.isSuccess(forth.exit))
        assert.lengthOf(yield* world.rows("runs"), 1)
        if (back !== null) {
          assert.isTrue(Exit.isFailure(back.exit))
          assert.isBelow(back.took, 15_000)
        }
      }),
    limit(20, 60)
  )

  // on the others no session has a clock of its own
  const onMysql = database === "mysql" ? it.scoped : it.scoped.skip

  onMysql(
    "of a session whose zone repeats an hour leaves due times exact",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const zone = yield* berlinOn(yield* SqlClient.SqlClient)
        // a connection of its own, so that nobody else gets this clock
        const sql = Context.get(yield* Layer.build(Layer.fresh(clientLayer(url, 1))), SqlClient.SqlClient)
        const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, sql)
        yield* world.migrate
        const jobsd = yield* world.client()
        const wrong: Array<string> = []
        let usualIsWrong = 0
        const moments = ["02:30:00+02:00", "02:59:59+02:00", "02:00:00+01:00", "02:30:00+01:00", "03:00:00+01:00"]
        for (const moment of moments) {
          const at = Date.parse(`2026-10-25T${moment}`)
          yield* world.unsafe(`SET time_zone = '${zone}', timestamp = ${at / second}`)
          const [session] = yield* Effect.orDie(
            sql.unsafe<Record<string, unknown>>("SELECT @@time_zone AS zone, UNIX_TIMESTAMP(NOW(3)) * 1000 AS usual")
          )
          assert.strictEqual(session!.zone, zone)
          if (Number(session!.usual) !== at) usualIsWrong++
          const id = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed" }, { delay: "5 minutes" }))
          const scheduled = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed" }, { schedule: Often, delay: "5 minutes" }))
          for (const [run, due] of [
            [id, at + 5 * minute],
            [scheduled, at + 5 * minute + 200]
          ] as const) {
            const { createdAt, runAt } = yield* Effect.orDie(jobsd.getRunState(run))
            if (createdAt.epochMillis !== at) wrong.push(`${moment}: created at ${DateTime.formatIso(createdAt)}`)
            if (runAt.epochMillis !== due) wrong.push(`${moment}: due at ${DateTime.formatIso(runAt)}`)
          }
        }
        report({
          row: 44,
          what: "the session's zone is Europe/Berlin, in the repeated hour",
          database,
          count: usualIsWrong,
          result: wrong.length === 0 ? "passed" : "failed",
          figure: `${2 * moments.length} runs due exactly; UNIX_TIMESTAMP(NOW(3)) is wrong ${usualIsWrong} times`
        })
        assert.isAbove(usualIsWrong, 0, "a clock that is read as local time would have shown it")
        assert.deepStrictEqual(wrong, [])
      }),
    limit(20, 20)
  )
})

const docs = readFileSync(new URL("../../docs/schedules.md", import.meta.url), "utf8")

/** the rows of a table, by its heading */
const rowsOf = (heading: string) =>
  docs
    .slice(docs.indexOf(heading))
    .split("\n\n")[0]!
    .split("\n")
    .slice(2)
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim())
    )

const ruleOf = (rule: string, zone: string) =>
  rule.startsWith("every ")
    ? JobSchedule.every("Rule", rule.replace("every ", "") as `${number} minutes`)
    : JobSchedule.cron("Rule", rule.replaceAll("`", ""), zone)

const next = (schedule: JobSchedule.JobSchedule, after: number) => schedule.next(DateTime.unsafeMake(after)).epochMillis

/** Local times without the library's help. The changes that count here are at quarters of an hour. */
const offsets = new Map<string, number>()
const formats = new Map<string, Intl.DateTimeFormat>()
const offsetAt = (zone: string, at: number): number => {
  const quarter = Math.floor(at / (15 * minute)) * 15 * minute
  const key = `${zone} ${quarter}`
  const known = offsets.get(key)
  if (known !== undefined) return known
  const numeric = "numeric"
  const format =
    formats.get(zone) ??
    new Intl.DateTimeFormat("en", {
      timeZone: zone,
      hourCycle: "h23",
      year: numeric,
      month: numeric,
      day: numeric,
      hour: numeric,
      minute: numeric
    })
  formats.set(zone, format)
  const part = Object.fromEntries(format.formatToParts(quarter).map(({ type, value }) => [type, Number(value)]))
  const found = Date.UTC(part.year!, part.month! - 1, part.day, part.hour, part.minute) - quarter
  offsets.set(key, found)
  return found
}

const local = (zone: string, at: number): string => {
  const off = offsetAt(zone, at)
  const clock = (millis: number) => new Date(millis).toISOString().slice(11, 16)
  return `${clock(at + off)}${off < 0 ? "-" : "+"}${clock(Math.abs(off))}`
}

/** the moments at which a zone's clocks change */
const changesOf = (zone: string, fromYear: number, years: number): ReadonlyArray<{ readonly at: number; readonly by: number }> => {
  const found: Array<{ readonly at: number; readonly by: number }> = []
  const step = 15 * minute
  for (let day = Date.UTC(fromYear, 0); day < Date.UTC(fromYear + years, 0); day += 24 * hour) {
    if (offsetAt(zone, day) === offsetAt(zone, day + 24 * hour)) continue
    for (let at = day + step; at <= day + 24 * hour; at += step) {
      const by = offsetAt(zone, at) - offsetAt(zone, at - step)
      if (by !== 0) found.push({ at, by })
    }
  }
  return found
}

const change = (zone: string, season: "spring" | "autumn") =>
  changesOf(zone, 2026, 1).find(({ by }) => (season === "spring" ? by > 0 : by < 0))!

/** what a rule does from a moment on, that one included */
const momentsOf = (schedule: JobSchedule.JobSchedule, from: number, to: number): ReadonlyArray<number> => {
  const found: Array<number> = []
  const isInterval = next(schedule, from) - from === next(schedule, from + 1) - from - 1
  for (let at = isInterval ? from : next(schedule, from - 1); at < to; at = next(schedule, at)) found.push(at)
  return found
}

/**
 * The documented rule, in the slowest way: the first local time after the one given that fits, minute by minute; if it comes twice, its
 * first pass; if it is skipped, as much later as the clocks are put forward; and what is not ahead does not count.
 */
const reference = (expression: string, zone: string, after: number): number => {
  const fields = expression.split(" ")
  const sets = (["0-59", "0-59", "0-23", "1-31", "1-12", "0-6"] as const).map((range, i) => {
    const field = fields.length === 5 ? (i === 0 ? "0" : fields[i - 1]!) : fields[i]!
    return new Set(
      field.split(",").flatMap((part) => {
        const [between, step = "1"] = part.split("/")
        const [from, to] = (between === "*" ? range : between!).split("-").map(Number)
        return Array.from({ length: (to ?? from!) - from! + 1 }, (_, n) => from! + n).filter((n) => (n - from!) % Number(step) === 0)
      })
    )
  })
  const [seconds, minutes, hours, days, months, weekdays] = sets as [
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>
  ]
  const eitherDay = !fields.at(-3)!.startsWith("*") && !fields.at(-1)!.startsWith("*")
  const isDay = (date: Date) => {
    const [day, weekday] = [days.has(date.getUTCDate()), weekdays.has(date.getUTCDay())]
    return months.has(date.getUTCMonth() + 1) && (eitherDay ? day || weekday : day && weekday)
  }
  const given = after + offsetAt(zone, after)
  for (let wall = Math.floor(given / minute) * minute; ; ) {
    const date = new Date(wall)
    const forward = (to: number) => {
      wall = (Math.floor(wall / to) + 1) * to
    }
    if (!isDay(date)) forward(24 * hour)
    else if (!hours.has(date.getUTCHours())) forward(hour)
    else if (!minutes.has(date.getUTCMinutes())) forward(minute)
    else {
      for (const n of seconds) {
        const time = wall + n * second
        if (time <= given) continue
        const [before, then] = [offsetAt(zone, time - 24 * hour), offsetAt(zone, time + 24 * hour)]
        const found =
          offsetAt(zone, time - before) === before ? time - before : offsetAt(zone, time - then) === then ? time - then : time - before
        if (found > after) return found
      }
      forward(minute)
    }
  }
}

const daylightZones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]

describe("clocks that change twice a year", () => {
  const moments = rowsOf("| Rule | Zone | Spring | Autumn |")
  const answers = rowsOf("| Rule | Zone | Asked at | Next |")

  plain.each(moments)("do with %s in %s what is documented", (rule, zone, ...cells) => {
    for (const [i, season] of (["spring", "autumn"] as const).entries()) {
      const { at } = change(zone!, season)
      const found = momentsOf(ruleOf(rule!, zone!), at - hour, at + 2 * hour)
      const count = /^(\d+) moments$/.exec(cells[i]!)
      if (count !== null) assert.strictEqual(found.length, Number(count[1]), season)
      else assert.strictEqual(found.map((moment) => local(zone!, moment)).join(", "), cells[i], season)
    }
  })

  plain.each(answers)("lead %s in %s, asked at %s, to %s", (rule, zone, asked, answer) => {
    const moment = (text: string) => Date.parse(text.replace(" ", "T"))
    assert.strictEqual(local(zone!, moment(asked!)), asked!.slice(11), "the documented moment exists")
    const found = next(ruleOf(rule!, zone!), moment(asked!))
    assert.strictEqual(local(zone!, found), answer!.slice(11))
    assert.strictEqual(found, moment(answer!))
  })

  plain("are documented for half hours and whole ones, in both directions", () => {
    assert.isAtLeast(moments.length, 15)
    assert.isAtLeast(answers.length, 8)
    assert.sameMembers([...new Set(moments.map(([, zone]) => zone))], daylightZones)
    assert.deepStrictEqual(
      daylightZones.map((zone) => (["spring", "autumn"] as const).map((season) => change(zone, season).by / minute)),
      [
        [60, -60],
        [60, -60],
        [30, -30]
      ]
    )
  })

  plain("let no chain end and use no moment twice, however late its runs are", limit(20, 120), async () => {
    const choose = choicesFor("chains in the changing hours")
    const rules = ["30 2 * * *", "15 2 * * *", "0 * * * *", "*/30 * * * *", "* * * * *", "*/15 * * * * *", "5,50 1-3 * * *"]
    let followed = 0
    let chains = 0
    for (let round = 0; round < scaled(1, 50); round++) {
      for (const zone of daylightZones) {
        // vitest hears that it lives
        await Effect.runPromise(aBreath)
        for (const { at } of changesOf(zone, 2026, 1)) {
          for (const rule of rules) {
            const schedule = JobSchedule.cron("Rule", rule, zone)
            const usual = choose.oneOf([second, 20 * minute, 70 * minute])
            let due = next(schedule, at - 4 * hour)
            chains++
            while (due < at + 4 * hour) {
              const endedAt = due + Math.round(choose.between(1, usual))
              const following = nextMoment((after) => next(schedule, after), due, endedAt)
              if (typeof following === "string")
                throw new Error(`${rule} in ${zone} after ${local(zone, due)}, ended ${local(zone, endedAt)}: ${following}`)
              assert.isAbove(following, due)
              assert.isTrue(following > endedAt, "what has passed is skipped")
              due = following
              followed++
            }
          }
        }
      }
    }
    report({
      row: 43,
      what: "chains with late runs through both changes in Berlin, New York, Lord Howe",
      database: "none",
      count: chains,
      result: "passed",
      figure: `${followed} moments, strictly increasing, none refused`
    })
  })

  plain("leave every cron rule in every zone going forward, to the moment that a slow search finds", limit(20, 300), async () => {
    const zones = [...daylightZones, "UTC", "Africa/Casablanca", "Antarctica/Troll", "America/Havana", "America/Santiago", "Asia/Beirut"]
    const changes = new Map(zones.map((zone) => [zone, changesOf(zone, 2024, 7).map(({ at }) => at)]))
    const field = (...texts: ReadonlyArray<string>) => fc.constantFrom(...texts)
    const expression = fc
      .tuple(
        fc.option(field("*/15", "30", "0,59"), { nil: null, freq: 5 }),
        field("*", "*/15", "*/20", "0", "30", "59", "7,37"),
        field("*", "*/2", "0", "1", "2", "3", "23", "0-3", "1,2,3"),
        field("*", "*", "*", "*/2", "1", "29", "15-20"),
        field("*", "*", "3,10", "4,11", "*/2"),
        field("*", "*", "*", "0", "0,6", "1-5")
      )
      .map((fields) => fields.filter((text) => text !== null).join(" "))
    const moment = fc.constantFrom(...zones).chain((zone) => {
      const anywhen = fc.integer({ min: Date.UTC(2024, 0), max: Date.UTC(2031, 0) })
      const near = changes.get(zone)!
      // most of them within three hours of a change
      const when =
        near.length === 0
          ? anywhen
          : fc.oneof(anywhen, {
              weight: 3,
              arbitrary: fc.tuple(fc.constantFrom(...near), fc.integer({ min: -3 * hour, max: 3 * hour })).map(([at, by]) => at + by)
            })
      return fc.tuple(fc.constant(zone), when)
    })
    const numRuns = scaled(1000, 100_000)
    const result = await fc.check(
      fc.asyncProperty(expression, moment, async (rule, [zone, after]) => {
        await Effect.runPromise(aBreath)
        const found = next(JobSchedule.cron("Any", rule, zone), after)
        assert.isAbove(found, after, "strictly later")
        assert.strictEqual(new Date(found).toISOString(), new Date(reference(rule, zone, after)).toISOString())
      }),
      { numRuns, seed }
    )
    report({
      row: 48,
      what: "random cron rules, zones and moments against a slow search",
      database: "none",
      count: result.numRuns,
      result: result.failed ? "failed" : "passed",
      figure: `${zones.length} zones, counterexamples ${result.failed ? JSON.stringify(result.counterexample) : 0}`
    })
    if (result.failed) throw new Error(fc.defaultReportMessage(result) ?? "failed")
  })
})

describe("a Cron without a zone", () => {
  plain("counts in UTC or in the zone given, not in that of the machine", () => {
    const there = process.env.TZ
    try {
      const answers = ["America/New_York", "Asia/Tokyo"].map((zone) => {
        process.env.TZ = zone
        const cron = Cron.unsafeParse("0 9 * * *")
        return [
          new Date("2026-01-01T00:00:00Z").getTimezoneOffset(),
          ...[JobSchedule.cron("Morning", cron), JobSchedule.cron("Morning", cron, "Europe/Berlin")].map((schedule) =>
            new Date(next(schedule, Date.UTC(2026, 0))).toISOString()
          )
        ]
      })
      assert.deepStrictEqual(answers, [
        [300, "2026-01-01T09:00:00.000Z", "2026-01-01T08:00:00.000Z"],
        [-540, "2026-01-01T09:00:00.000Z", "2026-01-01T08:00:00.000Z"]
      ])
    } finally {
      if (there === undefined) delete process.env.TZ
      else process.env.TZ = there
    }
    assert.isTrue(Either.isLeft(JobSchedule.cronEither("Nowhere", Cron.unsafeParse("0 9 * * *"), "Mars/Olympus")))
  })
})

describe("a listener for hints", () => {
  /** what became of one whose database is nothing but a channel, after it has asked once whether it hears itself */
  const listening = (jumpMillis: number, hears: boolean) =>
    Effect.gen(function* () {
      const channel = yield* PubSub.unbounded<string>()
      const trueNow = Date.now
      let jumped = 0
      const clock = vi.spyOn(Date, "now").mockImplementation(() => trueNow() + jumped)
      yield* Effect.addFinalizer(() => Effect.sync(() => clock.mockRestore()))
      let asked = 0
      const session = {
        rows: (_: unknown, { hint }: { readonly hint: string }) =>
          Effect.suspend(() => {
            asked++
            jumped += jumpMillis
            return hears ? channel.publish(hint) : Effect.void
          })
      }
      const database = {
        dialect: { hint: { kind: "channel", announce: "", within: (insert: string) => insert } },
        tables: { runs: "runs" },
        statement: (source: string) => source,
        write: (_: string, use: (on: typeof session) => Effect.Effect<unknown>) => use(session),
        failed: () => (error: unknown) => error,
        listen: () => Stream.fromPubSub(channel)
      } as unknown as Database
      const fiber = yield* Effect.forkScoped(Effect.exit(hints.make(database, () => "me" as never).listen!(() => {})))
      yield* TestClock.adjust("59 seconds")
      jumped += jumpMillis
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(asked, 1)
      return yield* Fiber.poll(fiber)
    }).pipe(Effect.scoped)

  plain("that hears is believed, and one that does not is not, whatever the wall clock does meanwhile", () =>
    Effect.gen(function* () {
      for (const by of [0, hour, -hour]) {
        assert.isTrue(Option.isNone(yield* listening(by, true)), `it hears, and the clock jumped by ${by}`)
        assert.isTrue(Option.isSome(yield* listening(by, false)), `it is deaf, and the clock jumped by ${by}`)
      }
    }).pipe(Effect.provide(TestContext.TestContext), Effect.runPromise)
  )
})
