/**
 * The statements that are sent all day read by an index what they are asked for and no more, however much else is in the table: runs
 * that have ended, that are due later, in other queues, of jobs that are not known here, and those that others run. On tables that
 * the database has just been told about, and on tables it has no statistics of, like everybody's on the first day.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import type { TestContext } from "vitest"
import type { InstanceId } from "../src/Instance.js"
import { type Outcome, State, settle } from "../src/internal/lifecycle.js"
import * as databases from "../src/internal/storage/database.js"
import { dialectOf } from "../src/internal/storage/dialect.js"
import * as instanceStore from "../src/internal/storage/instanceStore.js"
import { migrate } from "../src/internal/storage/migrations.js"
import type { ClaimedRun } from "../src/internal/storage/runRow.js"
import * as runStore from "../src/internal/storage/runStore.js"
import { claimsKept } from "../src/internal/storage/runs/claim.js"
import type { Kept } from "../src/internal/storage/statement.js"
import { uuidv7 } from "../src/internal/uuid.js"
import type { RunId } from "../src/Run.js"
import { type DatabaseName, onEveryDatabase } from "./support/databases.js"
import { keptMark, observe, type Plan } from "./support/plans.js"
import { freshPrefix } from "./support/world.js"

const minute = 60_000
const day = 24 * 60 * minute
const leaseMillis = 30_000
const known = { jobs: ["Mail", "Report"], schedules: ["Nightly"] }
const queues = ["default", "mail"]
const counts = { started: 0, succeeded: 0, errors: 0, timedOut: 0, cancelled: 0, rescheduled: 0, released: 0, rescued: 0 }
const kept = { succeeded: 3 * day, failed: 30 * day, cancelled: 30 * day }
const anId = () => uuidv7(Date.now())

/** What a statement may read, by index: how many rows are asked of it, and the columns by which it must be entered. */
interface May {
  readonly [index: string]: readonly [asked: number, ...by: ReadonlyArray<string>]
}

/** Twice what is asked, and for each of ten priorities the row that shows that there are no more. */
const most = (asked: number) => 2 * asked + 10

/** What is wrong with a plan. Sorted may be as many rows as are said; none of them when nothing is said. */
const faultsOf = ({ looks, readings, sorts }: Plan, runs: string, may: May, sorted: number): ReadonlyArray<string> => {
  const faults: Array<string> = []
  const rows = new Map<string, number>()
  for (const { by, index, rows: read, table } of readings) {
    const name = `${table === runs ? "" : "attempts "}${index ?? "whole table"}`
    const [, ...columns] = may[name] ?? []
    if (may[name] === undefined) faults.push(`reads: ${name}`)
    else if (!columns.every((column) => by.includes(column))) faults.push(`reads: ${name} by (${by}), not (${columns})`)
    rows.set(name, (rows.get(name) ?? 0) + (read ?? 0))
  }
  for (const [name, read] of rows) {
    const asked = may[name]?.[0] ?? 0
    if (read > most(asked)) faults.push(`reads: ${name}, ${read} rows for ${asked}`)
  }
  const allowed = Object.values(may).reduce((sum, [asked]) => sum + most(asked), 0)
  // an UPDATE looks at each of its rows once more; and the table of instances is read by the way
  if (looks !== null && looks > allowed + 50) faults.push(`looks ${looks} times into indexes, for at most ${allowed} rows`)
  for (const rows of sorts) {
    if ((rows === null && sorted === 0) || (rows !== null && rows > sorted)) faults.push(`sorts ${rows ?? "some"} rows`)
  }
  return readings.length === 0 ? ["does not say how the table is read"] : faults
}

/** What a claim has chosen, found again to be marked. */
const found = (name: DatabaseName, asked: number): May => ({
  id: [asked, "id"],
  place: [asked, name === "sqlite" ? "rowid" : "ctid"]
})

/** An attempt that has ended, as the settler hands it over. */
const settledAt =
  (startedAt: number) =>
  (run: ClaimedRun, outcome: Outcome): runStore.Settled => {
    const settlement = settle(run, outcome, { retryDelayMillis: minute, nextRunAt: startedAt + day })
    return { run, settlement, startedAt, successorId: settlement.successor === null ? null : (anId() as RunId) }
  }
const plainSuccess: Outcome = { _tag: "Succeeded", result: null, late: false }

/** Tables with much in them, and the means to look at what is asked of them. */
const makeTables = (name: DatabaseName, rows: "few" | "many") =>
  Effect.gen(function* () {
    const prefix = freshPrefix()
    const client = yield* SqlClient.SqlClient
    const { plansOf, sql } = observe(client, [`${prefix}_runs`, `${prefix}_attempts`])
    // what the server keeps in a function is explained by itself
    const kept = ({ source }: Kept) => `${name === "postgres" ? keptMark : ""} ${source.trim()}`
    const database = { ...(yield* databases.make(sql, dialectOf(sql)!, prefix)), kept }
    yield* migrate(database)
    const { attempts, instances, runs } = database.tables
    // a disk that is busy takes its time
    const patience = { tryMillis: minute, contentionMillis: 0, triesWhenLost: 0 }
    const on = (text: string) => database.write("fill the tables", (session) => session.run(text), patience)

    const makeInstance = (jobs: ReadonlyArray<string>) =>
      Effect.gen(function* () {
        const id = anId() as InstanceId
        const registration = { id, host: "here", pid: 1, jobs, schedules: known.schedules, queues: { default: 1 } }
        const made = {
          id,
          instances: instanceStore.make(database, registration, 60 * minute),
          runs: runStore.make({ database, me: id, known: { jobs, schedules: known.schedules }, queues, leaseMillis })
        }
        yield* made.instances.register(counts)
        return made
      })
    const me = yield* makeInstance(known.jobs)
    const other = yield* makeInstance(["Mail"])
    const dead = yield* makeInstance(["Mail"])
    yield* on(`UPDATE ${instances} SET state = ${instanceStore.InstanceState.dead} WHERE id = '${dead.id}'`)

    // the numbers from 0 to 19,999, in words that all three databases know
    const digits = `(SELECT 0 AS d ${Array.from({ length: 9 }, (_, i) => `UNION ALL SELECT ${i + 1}`).join(" ")})`
    yield* on(`CREATE TABLE ${prefix}_numbers (n BIGINT NOT NULL PRIMARY KEY)`)
    yield* on(`
      INSERT INTO ${prefix}_numbers
      SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d
      FROM ${digits} a, ${digits} b, ${digits} c, ${digits} e, ${digits} f WHERE f.d < 2`)

    const now = Date.now()
    const says = {
      sqlite: { id: "lower(hex(randomblob(18)))", key: "printf('%064d', n)" },
      postgres: { id: "gen_random_uuid()", key: "lpad(n::text, 64, '0')" },
      mysql: { id: "UUID()", key: "LPAD(n, 64, '0')" }
    }[name]
    const usual = {
      id: says.id,
      origin_id: says.id,
      occurrence: 0,
      job: "'Mail'",
      queue: "'default'",
      state: State.ready,
      priority: "n % 10",
      run_at: `${now - 2 * minute} - n`,
      created_at: now - day,
      created_by: `'${other.id}'`,
      fence: 0,
      errors: 0,
      timeouts: 0,
      crashes: 0,
      success_count: 0,
      payload: `'{"name":"Ada"}'`,
      payload_bytes: 14,
      late: 0
    }
    /** so many runs, each with a number n from 0 */
    const filling = (count: number, special: { readonly [column: string]: string | number }) => {
      const columns = Object.entries({ ...usual, ...special })
      return `
        INSERT INTO ${runs} (${columns.map(([column]) => column).join(", ")})
        SELECT ${columns.map(([_, value]) => value).join(", ")} FROM ${prefix}_numbers WHERE n < ${count}`
    }
    const fill = (...of: Parameters<typeof filling>) => on(filling(...of))
    const scale = rows === "many" ? 1 : 0.1
    const origin = anId()
    const running = { state: State.running, fence: 1, claimed_at: now, claim_token: `'${anId()}'` }
    // 18,000 have ended within four weeks, a third of them in each way: 5,400 successes have been there for longer than 3 days
    yield* fill(18_000 * scale, { state: "2 + n % 3", fence: 1, run_at: now - 29 * day, finished_at: `${now} - n * ${140_000 / scale}` })
    yield* fill(1_000 * scale, {
      state: State.succeeded,
      origin_id: `'${origin}'`,
      occurrence: "n",
      schedule: "'Nightly'",
      finished_at: `${now} - n`
    })
    yield* on(`UPDATE ${runs} SET id = origin_id WHERE schedule IS NOT NULL AND occurrence = 0`)
    for (const queue of queues) yield* fill(6_000 * scale, { queue: `'${queue}'`, run_at: `${now + 10 * minute} + n * 1000` })
    yield* fill(4_000 * scale, { run_at: `${now + 10 * minute} + n * 1000`, unique_key: says.key })
    yield* fill(4_000 * scale, { queue: "'elsewhere'" })
    yield* fill(1_000 * scale, { state: State.parked, job: "'Forgotten'" })
    // errors as long as they are: PostgreSQL would rather read a table of 3 MB from end to end than look up a thousand of its rows
    yield* on(`
      INSERT INTO ${attempts} (run_id, fence, attempt, ended_at, outcome, error)
      SELECT id, 1, 1, ${now}, 'error', '${"no answer ".repeat(60)}' FROM ${runs} WHERE finished_at IS NOT NULL`)

    return { on, plansOf, database, me, makeInstance, other, dead, fill, filling, running, origin, now, runs, attempts }
  })

/** MySQL cannot tell how it has carried out an UPDATE: there, a test is skipped. */
const mustTell = (name: DatabaseName, test: TestContext) =>
  Effect.gen(function* () {
    if (name !== "mysql") return
    const [row] = yield* (yield* SqlClient.SqlClient).unsafe<{ version: string }>("SELECT VERSION() AS version")
    if (!row!.version.includes("MariaDB")) test.skip(`MySQL ${row!.version} cannot tell how it has carried out an UPDATE`)
  })

const usesItsIndexes = (name: DatabaseName, statistics: boolean, test: TestContext) =>
  Effect.gen(function* () {
    yield* mustTell(name, test)
    const { attempts, dead, fill, makeInstance, me, now, on, origin, other, plansOf, running, runs } = yield* makeTables(name, "many")
    // or they come while this test runs
    if (name === "postgres" && !statistics) yield* on(`ALTER TABLE ${runs} SET (autovacuum_enabled = off)`)
    const analyse = Effect.forEach(
      !statistics
        ? []
        : {
            sqlite: ["ANALYZE"],
            postgres: [`VACUUM ANALYZE ${runs}`, `VACUUM ANALYZE ${attempts}`],
            mysql: [`ANALYZE TABLE ${runs}, ${attempts}`]
          }[name],
      on
    )

    /** by operation and statement, of which the first is enough */
    const faulty = new Map<string, string>()
    let checked = 0
    const check = <A, E, R>(operation: string, may: May, effect: Effect.Effect<A, E, R>, sorted = 0) =>
      Effect.gen(function* () {
        const [answer, plans] = yield* plansOf(effect)
        assert.isNotEmpty(plans, `${operation} asks nothing`)
        checked += plans.length
        for (const plan of plans) {
          const faults = faultsOf(plan, runs, may, sorted)
          const known = faulty.get(operation + plan.text)
          if (faults.length > 0 && known === undefined) {
            faulty.set(
              operation + plan.text,
              `${operation}: ${faults.join("; ")}\n${plan.text.slice(0, 1000)}\n${plan.told.slice(0, 10_000)}`
            )
          }
        }
        return answer
      })

    const count = (where: string) => Effect.map(on(`SELECT COUNT(*) AS found FROM ${runs} WHERE ${where}`), ([row]) => Number(row!.found))

    // A chore of once a minute. The heads of all priorities are read for it, and may be sorted. MariaDB has no index of parked runs by
    // their job: to find that this instance knows none of them, it reads them all, or the table when they are a tenth of it.
    const chores = Effect.gen(function* () {
      const due = yield* count(`state = ${State.ready} AND queue = 'default' AND run_at <= ${now}`)
      const parked = yield* count(`state = ${State.parked}`)
      const may: May =
        name === "mysql"
          ? { claim: [due + parked, "state"], done: [parked, "state"], "whole table": [yield* count("1 = 1")] }
          : { claim: [due, "queue", "priority", "run_at"], done: [3, "state", "finished_at"], parked: [0, "job"] }
      return yield* check("look for chores", may, me.runs.chores(kept), due)
    })

    /** What runs: an index of nothing else, where there are partial ones, may be read as a whole; else one that leads with the state. */
    const ofRunning = (rows: number): May => (name === "mysql" ? { claim: [rows, "state"], done: [rows, "state"] } : { owned: [rows] })

    /** everything that happens all day, beside so many runs that others work on */
    const aDay = (others: number) =>
      Effect.gen(function* () {
        yield* fill(250, {})
        yield* fill(50, { schedule: "'Nightly'" })
        yield* fill(1_200, { job: "'Unknown'" })
        yield* fill(40, { state: State.suspect, crashes: 1 })
        yield* fill(others, { ...running, owner: `'${other.id}'`, deadline_at: now + 60 * minute })
        yield* fill(150, { ...running, owner: `'${dead.id}'`, deadline_at: now + 60 * minute })
        yield* fill(150, { ...running, owner: `'${other.id}'`, deadline_at: now - 60 * minute })
        yield* analyse

        // what nobody knows is set aside first, as it is within a minute
        let { unknown } = yield* chores
        assert.strictEqual(unknown.length, 1_000)
        while (unknown.length > 0) {
          yield* check("park", { id: [unknown.length, "id"] }, me.runs.park(unknown))
          unknown = (yield* chores).unknown
        }

        // One row per priority, and the suspects of a queue, of which there are as many as a process held that has died: they are
        // looked at in one go for all priorities, and sorted by time.
        const waiting = yield* count(`state = ${State.suspect}`)
        const mayLook: May =
          name === "mysql" ? { claim: [20 + waiting, "queue"] } : { claim: [20, "queue", "priority"], suspect: [waiting, "queue"] }
        yield* check("look for due runs", mayLook, me.runs.nextDue, waiting)

        // nothing is ever sorted; without RETURNING, what was claimed is found by its owner among all that this instance holds
        const mayHold = (mine: number): May => ({ owned: [mine, "owner"] })
        let mine = 0
        const claim = (queue: string, state: typeof State.ready | typeof State.suspect, asked: number) =>
          Effect.gen(function* () {
            mine += asked
            const index = name !== "mysql" && state === State.suspect ? "suspect" : "claim"
            const may: May = { ...mayHold(mine), [index]: [asked, "queue", "priority", "run_at"], ...found(name, asked) }
            const claimed = yield* check("claim", may, me.runs.claim(queue, state, Math.max(asked, 32), anId()))
            assert.lengthOf(claimed.runs, asked)
            return claimed.runs
          })
        const [first, second] = [yield* claim("default", State.ready, 96), yield* claim("default", State.ready, 96)]
        const suspects = yield* claim("default", State.suspect, 32)
        // 6,000 runs wait, none is due
        yield* claim("mail", State.ready, 0)

        const owned = yield* check("heartbeat", mayHold(mine), me.instances.heartbeat(counts))
        assert.lengthOf(owned!, mine)

        const settled = settledAt(now)
        // again: as after an answer that was lost
        const settleTwice = (operation: string, group: ReadonlyArray<runStore.Settled>) =>
          Effect.gen(function* () {
            const may: May = { id: [group.length, "id"], "attempts id": [group.length, "run_id"] }
            for (const time of ["", ", again"]) {
              const recorded = yield* check(`${operation}${time}`, may, me.runs.settleOurs(group))
              assert.strictEqual(recorded.size, group.length)
            }
          })
        const isPlain = ({ schedule }: ClaimedRun) => schedule === null
        const plain = first.filter(isPlain).map((run) => settled(run, plainSuccess))
        assert.isAbove(plain.length, 50)
        yield* settleTwice("settle successes", plain)
        const outcomes: ReadonlyArray<Outcome> = [
          { _tag: "Succeeded", result: "1", late: false },
          { _tag: "Errored", error: "no", retry: true },
          { _tag: "Cancelled" },
          { _tag: "Released" }
        ]
        const rest = [...first.filter((run) => !isPlain(run)), ...second, ...suspects.slice(1)]
        const group = rest.map((run, i) => settled(run, isPlain(run) ? outcomes[i % 4]! : outcomes[0]!))
        assert.isTrue(group.some(({ successorId }) => successorId !== null))
        yield* settleTwice("settle others", group)

        // by its id, or among those of its owner, which is as good to a planner that takes both for one row
        const [unsettled] = suspects
        const mayRelease: May = { id: [1, "id"], owned: [mine, "owner"] }
        assert.isTrue(yield* check("release", mayRelease, me.runs.releaseUnknown(unsettled!.id, unsettled!.fence)))

        // Who sweeps looks at all that runs, twice, and may sort it: as much as all workers have and have claimed ahead, and no other row.
        const all = yield* count(`state = ${State.running}`)
        const maySweep: May = { id: [100, "id"], "attempts id": [100, "run_id"], ...ofRunning(2 * all) }
        const sweep = me.runs.sweep(leaseMillis, () => true)
        assert.strictEqual(yield* check("sweep", maySweep, sweep, all), 300)
      })
    yield* aDay(0)
    yield* aDay(2_000)

    // PostgreSQL reads and sorts all that may go when that is only some thousands (of 65,000 it reads 1,000, in order), and always when
    // it has no statistics, without which it reads all attempts, too. But a table that has runs of three days ago has statistics.
    const batch = name === "sqlite" ? 100 : 1_000
    const outlived = name === "postgres" ? 5_400 : batch
    const unknownAttempts: May = name === "postgres" && !statistics ? { "attempts whole table": [19_000] } : {}
    const mayDelete: May = {
      done: [outlived, "state", "finished_at"],
      id: [batch, "id"],
      "attempts id": [batch, "run_id"],
      ...unknownAttempts
    }
    const deleted = check("retention", mayDelete, me.runs.deleteFinished("succeeded", kept.succeeded), name === "postgres" ? outlived : 0)
    assert.strictEqual(yield* deleted, batch)
    let more = true
    while (more) more = (yield* me.runs.deleteFinished("succeeded", kept.succeeded)) > 0
    yield* analyse
    // Now that all that may go has gone, and older failures have stayed, a planner that multiplies "has succeeded" with "is old"
    // still expects thousands.
    assert.isFalse((yield* chores).finished.succeeded)

    const mayRead: May = { id: [2, "id"], chain: [1, "origin_id"] }
    const latest = yield* check("latest of a chain", mayRead, me.runs.latestOfChain(origin as RunId))
    assert.isTrue(latest._tag === "Some" && latest.value.occurrence === 999)

    const one = (where: string) => Effect.map(on(`SELECT id FROM ${runs} WHERE ${where} LIMIT 1`), ([row]) => row!.id as RunId)
    const mayCancel: May = { id: [1, "id"] }
    const waiting = yield* one(`state = ${State.ready} AND run_at > ${now}`)
    assert.isTrue(yield* check("cancel", mayCancel, me.runs.cancelWaiting(waiting)))
    const busy = yield* one(`state = ${State.running}`)
    assert.isTrue(yield* check("request to cancel", mayCancel, me.runs.requestCancel(busy)))

    const held = Array.from({ length: 20 }, (_, n): runStore.NewRun => {
      const key = String(n).padStart(64, "0")
      const limits = { maxErrors: 1, maxTimeouts: 1, maxCrashes: 1, timeoutMillis: 1000, successLimit: null }
      const when = { priority: 5, runAt: null, delayMillis: 0, schedule: null, backoff: null }
      const what = { job: "Mail", queue: "default", payload: "{}", payloadBytes: 2, name: key, uniqueKey: key }
      return { ...what, ...when, ...limits, id: anId() as RunId, createdBy: me.id, traceparent: null }
    })
    const mayFind: May = { id: [20, "id"], unique: [20, "unique_key"] }
    assert.lengthOf(yield* check("create what is there", mayFind, me.runs.insert(held, null)), 20)

    // where there is no index of parked runs by their job, all of them are read
    const rememberer = yield* makeInstance(["Forgotten"])
    const parked = yield* count(`state = ${State.parked}`)
    const mayUnpark: May = {
      id: [1_000, "id"],
      ...(name === "mysql" ? { claim: [parked, "state"], done: [parked, "state"] } : { parked: [1_000, "job"] })
    }
    assert.strictEqual(yield* check("unpark", mayUnpark, rememberer.runs.unpark), 1_000)

    assert.isAbove(checked, 50)
    assert.strictEqual([...faulty.values()].join("\n\n"), "")
  })

onEveryDatabase("a statement at size", (it, name) => {
  // a few seconds, unless the machine has much else to do
  const patient = { timeout: 60_000 }

  it.scoped("reads by its index what it is asked for", (test) => usesItsIndexes(name, true, test), patient)

  it.scoped("does so without statistics", (test) => usesItsIndexes(name, false, test), patient)

  // where a planner is tempted to read all of it
  it.scoped(
    "does so in a table of some thousand rows, without statistics",
    (test) =>
      Effect.gen(function* () {
        yield* mustTell(name, test)
        const { fill, me, now, on, plansOf, runs } = yield* makeTables(name, "few")
        if (name === "postgres") yield* on(`ALTER TABLE ${runs} SET (autovacuum_enabled = off)`)
        yield* fill(1_600, {})
        let claimed: ReadonlyArray<ClaimedRun> = []
        for (const mine of [512, 1_024, 1_536]) {
          const [{ runs: more }, plans] = yield* plansOf(me.runs.claim("default", State.ready, 512, anId()))
          assert.lengthOf(more, 512)
          claimed = more
          const may: May = { claim: [512, "queue", "priority", "run_at"], owned: [mine, "owner"], ...found(name, 512) }
          const faults = plans.flatMap((plan) => faultsOf(plan, runs, may, 0))
          assert.deepStrictEqual(faults, [])
        }
        const outcomes = claimed.map((run) => settledAt(now)(run, plainSuccess))
        const [recorded, plans] = yield* plansOf(me.runs.settleOurs(outcomes))
        assert.strictEqual(recorded.size, 512)
        const faults = plans.flatMap((plan) => faultsOf(plan, runs, { id: [512, "id"] }, 0))
        assert.deepStrictEqual(faults, [])
      }),
    patient
  )

  // the plan that a session keeps may have been made in any state of the table, and must do for all
  if (name === "postgres") {
    it.scoped("does so when the server has kept its plan since the table was empty", () =>
      Effect.gen(function* () {
        const { database, filling, me, runs } = yield* makeTables(name, "few")
        const { dialect, tables } = database
        const claims = claimsKept({ dialect, tables }).map((kept) => database.statement(dialect.keep!(kept).call))
        const values = () => ({ me: me.id, token: anId(), lease: leaseMillis, queue: "default", ...known, limit: 10 })
        const readWhole = yield* database.transact("claim runs", (session) =>
          Effect.gen(function* () {
            const claimAll = Effect.forEach(claims, (claim) => Effect.map(session.rows(claim, values()), (rows) => rows.length))
            yield* session.run(`TRUNCATE ${runs}`)
            for (let i = 0; i < 10; i++) assert.deepStrictEqual(yield* claimAll, [0, 0])
            yield* session.run(filling(20_000, {}))
            yield* session.run(filling(20_000, { state: State.suspect }))
            const read = Effect.map(
              session.run(`SELECT seq_tup_read AS rows FROM pg_stat_xact_user_tables WHERE relname = '${runs}'`),
              ([row]) => Number(row!.rows)
            )
            const before = yield* read
            assert.deepStrictEqual(yield* claimAll, [10, 10])
            return (yield* read) - before
          })
        )
        assert.strictEqual(readWhole, 0)
      })
    )
  }

  it.scoped(
    "is noticed when it does not",
    (test) =>
      Effect.gen(function* () {
        yield* mustTell(name, test)
        const { database, now, on, plansOf, runs } = yield* makeTables(name, "few")
        const faults = (text: string, may: May) =>
          Effect.gen(function* () {
            const [, plans] = yield* plansOf(database.read("look", (session) => session.rows({ text, names: [] }, {})))
            return plans.flatMap((plan) => faultsOf(plan, runs, may, 0))
          })
        const select = `SELECT id FROM ${runs}`
        const due = `state = ${State.ready} AND queue = 'default' AND run_at > ${now}`
        const claim: May = { claim: [1, "queue", "priority"] }
        assert.match((yield* faults(`${select} WHERE payload = 'x'`, {})).join(), /whole table/)
        const [{ id }] = (yield* on(`${select} LIMIT 1`)) as [{ id: string }]
        assert.match((yield* faults(`${select} WHERE id = '${id}'`, {})).join(), /reads: id/)
        assert.deepStrictEqual(yield* faults(`${select} WHERE id = '${id}'`, { id: [1, "id"] }), [])
        assert.match((yield* faults(`${select} WHERE ${due} AND priority = 3 ORDER BY job LIMIT 1`, claim)).join(), /sorts/)
        const unordered = yield* faults(`${select} WHERE ${due} ORDER BY run_at LIMIT 1`, claim)
        assert.match(unordered.join(), name === "sqlite" ? /not \(queue,priority\)/ : /\d+ rows|whole table/)
      }),
    patient
  )
})
