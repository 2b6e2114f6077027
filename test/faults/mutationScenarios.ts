/**
 * Short stories about the guards of the storage, each of which goes wrong when its guard is missing: what comes too late, from the
 * wrong one, or twice. Most are played against the model; where two must meet at one row, the story says how.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Deferred, Effect, Either, Fiber } from "effect"
import type { InstanceId } from "../../src/Instance.js"
import { State } from "../../src/internal/lifecycle.js"
import type { Database } from "../../src/internal/storage/database.js"
import { tablesOf } from "../../src/internal/storage/dialect.js"
import * as instanceStore from "../../src/internal/storage/instanceStore.js"
import { migrate } from "../../src/internal/storage/migrations.js"
import * as runStore from "../../src/internal/storage/runStore.js"
import type { Session } from "../../src/internal/storage/session.js"
import { StorageError } from "../../src/JobsdError.js"
import type { RunId } from "../../src/Run.js"
import type { DatabaseName } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { type Command, hour, knows, type Run, settlementOf, times, type Who } from "./storageModel.js"
import { idOf, play } from "./storageModelDriver.js"

/** Fails with an assertion when the storage does what it must not. */
export type Scenario = (database: Database) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>

type Of<Name extends Command["do"]> = Extract<Command, { readonly do: Name }>

const create = (more: Partial<Of<"create">> = {}): Command => ({
  do: "create",
  count: 1,
  job: "Job",
  unique: null,
  delay: 0,
  priority: 0,
  scheduled: false,
  limit: null,
  max: null,
  ...more
})
const claim = (who: Who, more: Partial<Of<"claim">> = {}): Command => ({ do: "claim", who, state: State.ready, limit: 3, ...more })
const settle = (outcome: Of<"settle">["outcome"], more: Partial<Of<"settle">> = {}): Command => ({
  do: "settle",
  claims: [0],
  outcome,
  result: true,
  delay: 0,
  next: 1,
  ...more
})
const by = (name: "heartbeat" | "expire" | "sweep" | "drain" | "stop" | "restart" | "park" | "unpark", who: Who): Command => ({
  do: name,
  who
})
const to = (name: "cancelWaiting" | "requestCancel", run = 0): Command => ({ do: name, run })
const release = (claim = 0): Command => ({ do: "release", claim })
const tamper = (what: Of<"tamper">["what"], run = 0): Command => ({ do: "tamper", run, what })
const advance = (hours: number): Command => ({ do: "advance", hours })

const story =
  (...commands: ReadonlyArray<Command>): Scenario =>
  (database) =>
    play(database, commands)

/** a plain success has a statement of its own, without a result to write */
const plain = { result: false }
const scheduled = create({ job: "Job", scheduled: true })

const storesOf = (database: Database, who: Who, n: number) =>
  runStore.make({
    database,
    me: idOf("aaa", n) as InstanceId,
    known: knows[who],
    queues: ["default"],
    leaseMillis: times.lease * hour
  })

const counts = { started: 0, succeeded: 0, errors: 0, timedOut: 0, cancelled: 0, rescheduled: 0, released: 0, rescued: 0 }

const instanceOf = (database: Database, n: number) => {
  const registration = { id: idOf("aaa", n) as InstanceId, host: "here", pid: 1, jobs: [], schedules: [], queues: {} }
  return instanceStore.make(database, registration, times.lease * hour)
}

const newRun = (id: string, uniqueKey: string | null = null): runStore.NewRun => ({
  id: id as RunId,
  job: "Job",
  queue: "default",
  schedule: null,
  name: uniqueKey,
  uniqueKey,
  priority: 0,
  runAt: null,
  delayMillis: 0,
  createdBy: id as InstanceId,
  maxErrors: null,
  maxTimeouts: null,
  maxCrashes: null,
  timeoutMillis: null,
  successLimit: null,
  backoff: null,
  payload: "",
  payloadBytes: 0,
  traceparent: null
})

const rows = (database: Database, columns: string) =>
  database.read("look", (session) => session.run(`SELECT ${columns} FROM ${database.tables.runs} ORDER BY id`))
const instances = (database: Database) =>
  Effect.map(
    database.read("look", (session) => session.run(`SELECT id FROM ${database.tables.instances} ORDER BY id`)),
    (found) => found.map(({ id }) => id)
  )
const on = (database: Database, text: string) => database.write("play", (session) => session.run(text))
const stateOf = (database: Database) =>
  Effect.map(rows(database, "state, fence"), (found) => found.map(({ fence, state }) => [Number(state), Number(fence)]))

/** lets something happen to the rows right after a statement of a transaction has read them, on the same connection */
const meanwhile = (database: Database, after: RegExp, change: string): Database => ({
  ...database,
  transact: (operation, use) =>
    database.transact(operation, (session) =>
      use({
        ...session,
        rows: (statement, values) =>
          after.test(statement.text)
            ? Effect.tap(session.rows(statement, values), () => session.run(change))
            : session.rows(statement, values)
      })
    )
})

/** the answers to writes are lost, and something may happen before anybody looks for what they did */
const unanswered = (database: Database, meanwhile: Effect.Effect<unknown, StorageError> = Effect.void): Database => {
  const lost = (operation: string, written: Effect.Effect<unknown, StorageError>) =>
    written.pipe(Effect.zipRight(meanwhile), Effect.zipRight(new StorageError({ operation, reason: "ambiguous" })))
  return {
    ...database,
    write: (operation, use, patience) => lost(operation, database.write(operation, use, patience)),
    writeMany: (operation, rows, use, patience) => lost(operation, database.writeMany(operation, rows, use, patience))
  }
}

/** does something before each text that is sent without parameters in a transaction */
const before = (database: Database, act: (text: string) => Effect.Effect<void>): Database => ({
  ...database,
  transact: (operation, use) =>
    database.transact(operation, (session) =>
      use({ ...session, run: (text) => Effect.zipRight(act(text), session.run(text)) } satisfies Session)
    )
})

let migrations = 0

/** somebody waits for the lock of migrations, by the server's own account */
const waitsForLock = (database: Database) =>
  Effect.map(
    database.read("look", (session) =>
      session.run(
        database.dialect.returning
          ? "SELECT COUNT(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
          : "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'"
      )
    ),
    (found) => Number(found[0]?.n) > 0
  )

/** another connection that has changed rows and has not committed; the effect returned commits */
const locked = (database: Database, change: string) =>
  Effect.gen(function* () {
    const other = yield* (yield* SqlClient.SqlClient).reserve
    const send = (text: string) => other.executeUnprepared(text, [], undefined)
    yield* Effect.acquireRelease(send("BEGIN"), () => Effect.ignore(send("COMMIT")))
    yield* send(`UPDATE ${database.tables.runs} ${change}`)
    return send("COMMIT")
  })

/** whether an answer came before the row was unlocked, and the answer */
const waitingFor = <A, E, E2>(unlock: Effect.Effect<unknown, E>, effect: Effect.Effect<A, E2>) =>
  Effect.gen(function* () {
    const asked = yield* Effect.fork(effect)
    const early = yield* Effect.timeoutOption(Fiber.join(asked), "3 seconds")
    yield* unlock
    return { early: early._tag === "Some", answer: yield* Fiber.join(asked) }
  })

const putBackMeets =
  (change: string, expected: readonly [State, number]): Scenario =>
  (database) =>
    Effect.gen(function* () {
      yield* play(database, [create(), claim("A"), by("expire", "A")])
      const met = meanwhile(database, /r\.errors, r\.timeouts/, `UPDATE ${database.tables.runs} SET ${change}`)
      yield* storesOf(met, "B", 2).sweep(times.lease * hour, () => true)
      assert.deepStrictEqual(yield* stateOf(database), [[...expected]], "a row that has changed since it was looked at")
    })

export const scenarios = {
  "a stale holder of the same token settles": story(create(), claim("A"), tamper("fence"), settle("Succeeded")),
  "a stale holder of the same fence settles": story(create(), claim("A"), tamper("token"), settle("Succeeded")),
  "one claim has two outcomes": story(create(), claim("A"), settle("Succeeded"), settle("Errored")),
  "an outcome comes after another claim": story(create(), claim("A"), release(), claim("A"), settle("Succeeded", { claims: [1] })),
  "a stale holder of the same token succeeds": story(create(), claim("A"), tamper("fence"), settle("Succeeded", plain)),
  "a stale holder of the same fence succeeds": story(create(), claim("A"), tamper("token"), settle("Succeeded", plain)),
  "a success comes after a cancellation": story(create(), claim("A"), settle("Cancelled"), settle("Succeeded", plain)),
  "what another claim has settled": story(create(), claim("A"), settle("Succeeded"), tamper("token"), settle("Succeeded")),

  "an instance claims after its lease": story(create(), by("expire", "A"), claim("A")),
  "an instance claims while it drains": story(create(), by("drain", "A"), claim("A")),
  "an instance claims with another's lease": story(create(), by("stop", "A"), claim("A")),
  "a run is claimed twice": story(create(), claim("A"), claim("B")),
  "a run is claimed before its time": story(create({ delay: 1 }), claim("A")),
  "a run of an unknown job is claimed": story(create({ job: "Unknown" }), claim("A")),
  "a run of an unknown schedule is claimed": story(scheduled, claim("A")),
  "a suspect is claimed among others": story(create(), claim("A"), by("expire", "A"), by("sweep", "B"), claim("B")),
  "two claims are two answers": story(create(), create(), claim("A", { limit: 1 }), claim("A", { limit: 1 })),

  "a living instance is swept": story(create(), claim("A"), by("stop", "B"), by("sweep", "B")),
  "a dead instance is swept": story(create(), claim("A"), by("expire", "A"), by("sweep", "B")),
  "an instance that has signed off is swept": story(by("stop", "A"), by("expire", "A"), by("sweep", "B")),
  "a run in good time is swept": story(create(), claim("A"), by("sweep", "A")),
  "a waiting run is swept": story(create(), claim("A"), settle("Errored"), by("expire", "A"), by("sweep", "B")),
  "a sweep meets a settlement": putBackMeets(`state = ${State.succeeded}`, [State.succeeded, 1]),
  "a sweep meets another claim": putBackMeets("fence = 5", [State.running, 5]),
  "a run to be cancelled is put back": story(create(), claim("A"), to("requestCancel"), by("expire", "A"), by("sweep", "B")),

  "a claim of old is released": story(create(), claim("A"), release(), claim("A"), release(1)),
  "another's run is released": story(create(), claim("B"), tamper("owner"), release()),
  "a run that has ended is released": story(create(), claim("A"), settle("Errored"), tamper("owner"), release()),

  "a run that runs is cancelled as if it waited": story(create(), claim("A"), to("cancelWaiting")),
  "a run that has ended is cancelled again": story(create(), claim("A"), settle("Succeeded"), advance(1), to("cancelWaiting")),
  "a waiting run is asked to stop": story(create(), to("requestCancel"), claim("A"), settle("Errored")),
  "a run to be cancelled is followed by none": story(scheduled, claim("B"), to("requestCancel"), settle("Succeeded")),
  "a run to be cancelled is not tried again": story(create(), claim("A"), to("requestCancel"), settle("Errored")),

  "a key is held": story(create({ unique: 0 }), create({ unique: 0 })),
  "a key is held between the runs of a chain": story(
    create({ scheduled: true, unique: 0 }),
    claim("B"),
    settle("Succeeded"),
    create({ unique: 0 })
  ),
  "a place in a chain is taken": (database) =>
    Effect.gen(function* () {
      const { runs } = database.tables
      yield* play(database, [scheduled, create()])
      const [first, second] = [idOf("bbb", 1), idOf("bbb", 2)]
      const store = storesOf(database, "B", 2)
      const { runs: claimed } = yield* store.claim("default", State.ready, 1, idOf("ccc", 9))
      yield* on(database, `UPDATE ${runs} SET origin_id = '${first}', occurrence = 1, schedule = 'Rule' WHERE id = '${second}'`)
      const [run] = claimed
      assert.strictEqual(run?.id, first)
      const successor = { runAt: 0, successCount: 1 }
      const settlement = { state: State.succeeded, delayMillis: null, errors: 0, timeouts: 0, successCount: 1, result: null, error: null }
      yield* Effect.either(
        store.settleOurs([
          {
            run: run!,
            settlement: { ...settlement, late: false, keepAttempt: null, successor },
            startedAt: 1,
            successorId: idOf("bbb", 3) as RunId
          }
        ])
      )
      const places = yield* rows(database, "origin_id, occurrence")
      assert.strictEqual(new Set(places.map((row) => `${row.origin_id} ${row.occurrence}`)).size, places.length, "a place is taken once")
    }),
  "a creation is repeated": (database) =>
    Effect.gen(function* () {
      yield* play(database, [create()])
      const id = idOf("bbb", 1) as RunId
      const again = yield* Effect.either(storesOf(database, "A", 1).insert([newRun(id)], null))
      assert.deepStrictEqual(again, Either.right([id]), "a repeat of what was done already")
    }),
  // without a key, nobody asks who is there
  "a creation is repeated whose run has given up its key": (database) =>
    Effect.gen(function* () {
      const id = idOf("bbb", 1) as RunId
      yield* play(database, [create({ unique: 0 })])
      yield* on(database, `UPDATE ${database.tables.runs} SET state = ${State.succeeded}, finished_at = 1, unique_key = NULL`)
      const again = yield* Effect.either(storesOf(database, "A", 1).insert([newRun(id, "0".repeat(64))], null))
      assert.deepStrictEqual(again, Either.right([id]), "a repeat of what was done already")
    }),
  "a key is asked for that somebody holds": (database) =>
    Effect.gen(function* () {
      const key = "0".repeat(64)
      yield* play(database, [create({ unique: 0 })])
      const asked = yield* Effect.either(storesOf(database, "A", 1).insert([newRun(idOf("bbb", 9), key)], null))
      assert.deepStrictEqual(asked, Either.right([idOf("bbb", 1) as RunId]), "the one that holds the key")
    }),
  // its snapshot, which it reads first, does not have the holder
  "a key is taken after a transaction has begun": (database) =>
    Effect.gen(function* () {
      const key = "0".repeat(64)
      const [first, second] = [idOf("bbb", 1), idOf("bbb", 2)]
      yield* play(database, [])
      const store = storesOf(database, "A", 1)
      const within = yield* database.read("a transaction of a user", (session) =>
        Effect.gen(function* () {
          yield* session.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
          yield* session.run("BEGIN")
          yield* session.run(`SELECT COUNT(*) FROM ${database.tables.runs}`)
          yield* Effect.orDie(store.insert([newRun(first, key)], null))
          return yield* Effect.either(store.insertWithin(session, [newRun(second, key)]))
        }).pipe(Effect.ensuring(Effect.ignore(session.run("ROLLBACK"))))
      )
      assert.deepStrictEqual(within, Either.right([first as RunId]), "the one that holds the key")
    }),
  "the answer to a claim is lost, and another claim was before it": (database) =>
    Effect.gen(function* () {
      yield* play(database, [create(), create(), claim("A", { limit: 1 })])
      const store = storesOf(unanswered(database), "A", 1)
      const { runs } = yield* store.claim("default", State.ready, 2, idOf("ccc", 9))
      assert.deepStrictEqual(
        runs.map(({ id }) => id as string),
        [idOf("bbb", 2)],
        "what this claim has taken"
      )
    }),
  "the answer to a claim is lost, and its run has ended": (database) =>
    Effect.gen(function* () {
      yield* play(database, [create()])
      const ended = on(database, `UPDATE ${database.tables.runs} SET state = ${State.cancelled}`)
      const store = storesOf(unanswered(database, ended), "A", 1)
      const { runs } = yield* store.claim("default", State.ready, 1, idOf("ccc", 9))
      assert.deepStrictEqual(runs, [], "what is there to be started")
      assert.deepStrictEqual(yield* stateOf(database), [[State.cancelled, 1]], "it was claimed, and has ended")
    }),

  "a registration is repeated": (database) =>
    Effect.gen(function* () {
      yield* play(database, [])
      const again = yield* Effect.either(instanceOf(database, 1).register(counts))
      assert.isTrue(Either.isRight(again), "a repeat of what was done already")
      assert.lengthOf(yield* instances(database), 2)
    }),
  "an instance that lives and was not seen for long": (database) =>
    Effect.gen(function* () {
      yield* play(database, [by("stop", "A")])
      yield* on(database, `UPDATE ${database.tables.instances} SET seen_at = 0`)
      assert.strictEqual(yield* instanceOf(database, 1).forget, 1)
      assert.deepStrictEqual(yield* instances(database), [idOf("aaa", 2)], "only what has ended is forgotten")
    }),
  "an instance that has ended a moment ago": (database) =>
    Effect.gen(function* () {
      yield* play(database, [by("stop", "A"), by("expire", "B"), by("sweep", "A")])
      yield* instanceOf(database, 1).forget
      assert.lengthOf(yield* instances(database), 2, "what has ended is kept for a while")
    }),
  // the first is stopped in its tracks, when the tables are there and not recorded
  "two make the tables at once": (database) =>
    Effect.gen(function* () {
      const fresh = { ...database, tables: tablesOf(`lock${migrations++}`) }
      const there = yield* Deferred.make<void>()
      const goOn = yield* Deferred.make<void>()
      const sent: Array<string> = []
      const first = before(fresh, (text) =>
        text.startsWith("INSERT") ? Effect.zipRight(Deferred.succeed(there, undefined), Deferred.await(goOn)) : Effect.void
      )
      const second = before(fresh, (text) =>
        Effect.sync(() => {
          sent.push(text)
        })
      )
      const firstOne = yield* Effect.fork(Effect.exit(migrate(first)))
      yield* Deferred.await(there)
      const secondOne = yield* Effect.fork(Effect.exit(migrate(second)))
      const making = () => sent.filter((text) => text.startsWith("CREATE"))
      yield* eventually(waitsForLock(database), (waits) => waits || making().length > 0)
      const made = making()
      yield* Deferred.succeed(goOn, undefined)
      const exits = [yield* Fiber.join(firstOne), yield* Fiber.join(secondOne)]
      assert.deepStrictEqual(made, [], "the second one waits for the first")
      assert.deepStrictEqual(
        exits.map(({ _tag }) => _tag),
        ["Success", "Success"]
      )
    }),

  "a dead instance renews its lease": story(by("expire", "A"), by("sweep", "B"), by("heartbeat", "A")),
  "a dead instance drains": story(by("expire", "A"), by("sweep", "B"), by("drain", "A")),
  "a dead instance signs off": story(by("expire", "A"), by("sweep", "B"), by("stop", "A")),
  "another's runs are not one's own": story(create(), claim("B"), by("heartbeat", "A")),
  "what one has settled is not one's own": story(create(), claim("A"), settle("Errored"), tamper("owner"), by("heartbeat", "A")),

  "a run is parked while it is claimed": (database) =>
    Effect.gen(function* () {
      yield* play(database, [create({ job: "Unknown" }), advance(1), by("heartbeat", "A")])
      const store = storesOf(database, "A", 1)
      const { unknown } = yield* store.chores({ succeeded: null, failed: null, cancelled: null })
      assert.lengthOf(unknown, 1)
      yield* on(database, `UPDATE ${database.tables.runs} SET state = ${State.running}`)
      yield* store.park(unknown)
      assert.deepStrictEqual(yield* stateOf(database), [[State.running, 0]], "a run that runs meanwhile")
    }),
  "a run that has ended is not unparked": story(create(), claim("A"), settle("Succeeded"), by("unpark", "A")),
  "a run of an unknown job is not unparked": story(
    create({ job: "Unknown" }),
    advance(1),
    by("heartbeat", "A"),
    by("park", "A"),
    by("unpark", "A")
  ),
  "a run of an unknown schedule is not unparked": story(
    scheduled,
    by("stop", "B"),
    advance(1),
    by("heartbeat", "A"),
    by("park", "A"),
    by("unpark", "A")
  ),
  "a run is parked that only the dead know": story(
    create({ job: "Other" }),
    by("stop", "B"),
    advance(1),
    by("heartbeat", "A"),
    by("park", "A")
  ),
  "a run is parked that another one knows": story(create({ job: "Other" }), advance(1), by("heartbeat", "A"), by("park", "A")),
  "a run is parked whose schedule another one knows": story(scheduled, advance(1), by("heartbeat", "A"), by("park", "A")),
  "a run is parked that has only just come": story(create({ job: "Unknown" }), by("park", "A")),
  "a run is deleted before its time": story(create(), claim("A"), settle("Succeeded"), { do: "retention", state: State.succeeded }),
  "a run is deleted for another's sake": story(
    create(),
    create(),
    claim("A", { limit: 1 }),
    settle("Succeeded"),
    claim("A", { limit: 1 }),
    settle("Cancelled"),
    advance(1),
    { do: "retention", state: State.succeeded }
  ),
  "a row that another claim is about to take": (database) =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* play(database, [create(), create()])
        const unlock = yield* locked(database, `SET state = ${State.running}, fence = 9 WHERE id = '${idOf("bbb", 1)}'`)
        const { answer, early } = yield* waitingFor(unlock, storesOf(database, "A", 1).claim("default", State.ready, 2, idOf("ccc", 9)))
        // without the guard it waits for the other's row, and then takes it
        assert.deepStrictEqual(
          answer.runs.map(({ id }) => id as string),
          [idOf("bbb", 2)],
          "what nobody else has"
        )
        // MariaDB waits for a row whose state another transaction has changed and not committed, SKIP LOCKED or not
        if (database.dialect.returning) assert.isTrue(early, "a claim waits for nobody")
      })
    ),
  "a row beside one that somebody holds": (database) =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* play(database, [create(), create()])
        const store = storesOf(database, "A", 1)
        const { runs } = yield* store.claim("default", State.ready, 2, idOf("ccc", 9))
        const unlock = yield* locked(database, `SET priority = 1 WHERE id = '${runs[1]!.id}'`)
        const settlement = settlementOf({ run: runs[0]! as unknown as Run, by: "" }, settle("Errored") as Of<"settle">, 0)
        const { early } = yield* waitingFor(unlock, store.settleOurs([{ run: runs[0]!, settlement, startedAt: 1, successorId: null }]))
        assert.isTrue(early, "an outcome waits for no row but its own")
      })
    )
} satisfies { readonly [name: string]: Scenario }

export type ScenarioName = keyof typeof scenarios

/** where a story can be told, if it is not everywhere */
export const only: { readonly [Name in ScenarioName]?: ReadonlyArray<DatabaseName> } = {
  // where there are no locks of rows, nobody can hold one
  "a row that another claim is about to take": ["postgres", "mysql"],
  "a row beside one that somebody holds": ["postgres", "mysql"],
  // the others look at nothing older than the statement itself
  "a key is taken after a transaction has begun": ["mysql"],
  // SQLite's transaction is the lock
  "two make the tables at once": ["postgres", "mysql"]
}
