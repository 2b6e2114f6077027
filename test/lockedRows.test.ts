/**
 * Rows that somebody else holds locked, as a process does that is frozen within a transaction: whoever writes other rows waits for none of
 * them, however few rows there are. A planner that reads a table of five from end to end would.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Context, Effect, Layer, Option } from "effect"
import type { InstanceId } from "../src/Instance.js"
import type { Run } from "../src/index.js"
import { type Outcome, State, settle } from "../src/internal/lifecycle.js"
import * as databases from "../src/internal/storage/database.js"
import { dialectOf } from "../src/internal/storage/dialect.js"
import * as instanceStore from "../src/internal/storage/instanceStore.js"
import { migrate } from "../src/internal/storage/migrations.js"
import type { ClaimedRun } from "../src/internal/storage/runRow.js"
import * as runStore from "../src/internal/storage/runStore.js"
import { uuidv7 } from "../src/internal/uuid.js"
import { clientLayer } from "./support/client.js"
import { onEveryDatabase, Target } from "./support/databases.js"
import { freshPrefix } from "./support/world.js"

const leaseMillis = 60_000
const counts = { started: 0, succeeded: 0, errors: 0, timedOut: 0, cancelled: 0, rescheduled: 0, released: 0, rescued: 0 }
const anId = () => uuidv7(Date.now())

const newRun = (uniqueKey: string | null): runStore.NewRun => ({
  id: anId() as Run.RunId,
  job: "Job",
  queue: "default",
  schedule: null,
  name: uniqueKey,
  uniqueKey,
  priority: 5,
  runAt: null,
  delayMillis: 0,
  createdBy: anId() as InstanceId,
  maxErrors: 3,
  maxTimeouts: 3,
  maxCrashes: 3,
  timeoutMillis: 60_000,
  successLimit: null,
  backoff: null,
  payload: "",
  payloadBytes: 0,
  traceparent: null
})

const client = Effect.flatMap(Target, ({ url }) =>
  Effect.map(Layer.build(Layer.fresh(clientLayer(url, 2))), Context.get(SqlClient.SqlClient))
)

const actorOf = (database: databases.Database) =>
  Effect.gen(function* () {
    const id = anId() as InstanceId
    const known = { jobs: ["Job"], schedules: [] }
    yield* instanceStore
      .make(database, { id, host: "here", pid: 1, ...known, queues: { default: 1 } }, leaseMillis)
      .register(counts, databases.once)
    return { id, store: runStore.make({ database, me: id, known, queues: ["default"], leaseMillis }) }
  })

onEveryDatabase("a row that somebody holds locked", (it, name) => {
  // SQLite locks files, and no rows
  const test = name === "sqlite" ? it.scoped.skip : it.scoped

  test(
    "keeps nobody from writing the others",
    () =>
      Effect.gen(function* () {
        const ours = yield* client
        const somebody = yield* (yield* client).reserve

        const waited: Array<string> = []
        for (const count of [2, 3, 4, 5, 6, 12]) {
          const database = yield* databases.make(ours, dialectOf(ours)!, freshPrefix())
          yield* migrate(database)
          const { instances, runs } = database.tables
          const { store } = yield* actorOf(database)
          const dead = yield* actorOf(database)
          yield* database.write("declare dead", (session) => session.run(`UPDATE ${instances} SET state = 3 WHERE id = '${dead.id}'`))

          const writes: { readonly [what: string]: (run: ClaimedRun) => Effect.Effect<unknown, unknown> } = {}
          const outcomes: { readonly [what: string]: Outcome } = {
            "a success": { _tag: "Succeeded", result: null, late: false },
            "a result": { _tag: "Succeeded", result: "1", late: false },
            "a retry": { _tag: "Errored", error: "as asked", retry: true },
            "a release": { _tag: "Released" }
          }
          for (const [what, outcome] of Object.entries(outcomes)) {
            Object.assign(writes, {
              [what]: (run: ClaimedRun) =>
                store.settleOurs([
                  {
                    run,
                    settlement: settle(run, outcome, { retryDelayMillis: 1000, nextRunAt: null }),
                    startedAt: run.claimedAt,
                    successorId: null
                  }
                ])
            })
          }
          Object.assign(writes, {
            "a rescue": ({ id }: ClaimedRun) =>
              Effect.zipRight(
                database.write("give to the dead", (session) => session.run(`UPDATE ${runs} SET owner = '${dead.id}' WHERE id = '${id}'`)),
                store.sweep(leaseMillis, () => true)
              ),
            "a claim": () => Effect.zipRight(store.insert([newRun(null)], null), store.claim("default", State.ready, 1, anId())),
            "keys, taken and free": ({ uniqueKey }: ClaimedRun) =>
              store.insert([newRun(uniqueKey), newRun(anId().repeat(2).slice(0, 64))], null),
            "the end of what was kept": ({ id }: ClaimedRun) =>
              Effect.zipRight(
                database.write("end it", (session) => session.run(`UPDATE ${runs} SET state = 2, finished_at = 1 WHERE id = '${id}'`)),
                store.deleteFinished("succeeded", 1000)
              )
          })

          for (const [what, write] of Object.entries(writes)) {
            yield* database.write("empty the table", (session) => session.run(`DELETE FROM ${runs}`))
            yield* store.insert(
              Array.from({ length: count }, (_, i) => newRun(String(i).padStart(64, "0"))),
              null
            )
            const claimed = (yield* store.claim("default", State.ready, count, anId())).runs
            assert.lengthOf(claimed, count)
            const last = claimed.at(-1)!
            yield* somebody.executeUnprepared("BEGIN", [], undefined)
            // one after the other: asked for together, they too are had by reading all rows, and all are locked
            for (const { id } of claimed.slice(0, -1)) {
              yield* somebody.executeUnprepared(`SELECT * FROM ${runs} WHERE id = '${id}' FOR UPDATE`, [], undefined)
            }
            const within = yield* Effect.timeoutOption(Effect.exit(Effect.disconnect(write(last))), "3 seconds")
            yield* somebody.executeUnprepared("ROLLBACK", [], undefined)
            if (within._tag === "None") waited.push(`${what}, among ${count}`)
            else assert.strictEqual(within.value._tag, "Success", `${what}: ${within.value}`)
          }
        }
        assert.deepStrictEqual(waited, [])
      }),
    { timeout: 120_000 }
  )

  // whatever the change does to a claim's index
  const changes = {
    "to be held": (runs: string) => `SELECT * FROM ${runs} WHERE id = :id FOR UPDATE`,
    "to be claimed": (runs: string) => `UPDATE ${runs} SET state = ${State.running} WHERE id = :id`,
    "to be cancelled": (runs: string) => `UPDATE ${runs} SET state = ${State.cancelled}, finished_at = 1 WHERE id = :id`,
    "to be put off": (runs: string) => `UPDATE ${runs} SET run_at = run_at + 60000 WHERE id = :id`,
    "to be due before": (runs: string) => `UPDATE ${runs} SET run_at = run_at - 60000 WHERE id = :id`,
    "to be deleted": (runs: string) => `DELETE FROM ${runs} WHERE id = :id`,
    "to be created": null
  }

  test(
    "is neither claimed nor waited for, whatever its transaction is about to do to it",
    () =>
      Effect.gen(function* () {
        const [ours, theirs] = [yield* client, yield* client]
        const prefix = freshPrefix()
        const database = yield* databases.make(ours, dialectOf(ours)!, prefix)
        yield* migrate(database)
        const { runs } = database.tables
        const { store } = yield* actorOf(database)
        const somebody = yield* databases.make(theirs, dialectOf(theirs)!, prefix)
        const producer = yield* actorOf(somebody)

        const count = 30
        // a few and many at a time are claimed in different ways
        for (const asked of [10, 100]) {
          for (const [what, change] of Object.entries(changes)) {
            yield* database.write("empty the table", (session) => session.run(`DELETE FROM ${runs}`))
            const free = Array.from({ length: count }, () => newRun(null))
            yield* store.insert(free, null)
            const taken = free.filter((_, i) => i % 2 === 0).map(({ id }) => id)
            const claimed = yield* theirs.withTransaction(
              Effect.gen(function* () {
                const transaction = somebody.transactionOf(yield* Effect.context<never>())!
                if (change === null) {
                  // those that a claim would come to first
                  const before = taken.map(() => ({ ...newRun(null), runAt: 1 }))
                  yield* producer.store.insertWithin(transaction, before)
                } else {
                  for (const id of taken) yield* transaction.run(change(runs).replace(":id", `'${id}'`))
                }
                const claim = Effect.map(store.claim("default", State.ready, asked, anId()), ({ runs }) => runs.map(({ id }) => id))
                return yield* Effect.timeoutOption(Effect.disconnect(claim), "3 seconds")
              })
            )
            const expected = free.map(({ id }) => id).filter((id) => change === null || !taken.includes(id))
            assert.deepStrictEqual(Option.getOrNull(claimed), expected.slice(0, asked), `${what}, ${asked} at a time`)
          }
        }
      }),
    { timeout: 60_000 }
  )
})
