/**
 * Callers that are interrupted while what they have asked for is on its way. A write is never stopped half way: MySQL would carry it
 * out all the same, and PostgreSQL would need another connection to stop it. So it is done once, and its connection is whole.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer } from "effect"
import { Job, type Jobsd } from "jobsd"
import { clientLayer } from "../support/client.js"
import { onEveryDatabase, Target } from "../support/databases.js"
import { eventually, makeWorld, type World } from "../support/world.js"
import { limit, report } from "./support/campaign.js"
import { make as makeFaulty } from "./support/faultyClient.js"
import type { Kind } from "./support/statements.js"

const Asked = Job.make("Asked")

interface Operation {
  readonly what: string
  readonly at: Kind
  /** what is there before; the ids of the runs */
  readonly given: (jobsd: Jobsd.Jobsd.Service, world: World) => Effect.Effect<ReadonlyArray<string>, unknown>
  readonly act: (jobsd: Jobsd.Jobsd.Service, ids: ReadonlyArray<string>, sql: SqlClient.SqlClient) => Effect.Effect<unknown, unknown>
  /** how many rows show that it was done, and how many do when it was done once */
  readonly done: string
  readonly once: number
  /** of a transaction of the caller's, nothing stays when it is interrupted */
  readonly rolledBack?: boolean
}

const nothing = () => Effect.succeed([])
const one = (jobsd: Jobsd.Jobsd.Service) => Effect.map(jobsd.createRun(Asked, undefined, { delay: "1 hour" }), (id) => [id])

const operations: ReadonlyArray<Operation> = [
  {
    what: "createRun",
    at: "create",
    given: nothing,
    act: (jobsd) => jobsd.createRun(Asked, undefined),
    done: "state = 0",
    once: 1
  },
  {
    what: "createRun, three at once",
    at: "create",
    given: nothing,
    act: (jobsd) => Effect.replicateEffect(jobsd.createRun(Asked, undefined), 3, { concurrency: "unbounded" }),
    done: "state = 0",
    once: 3
  },
  {
    what: "createRuns",
    at: "create",
    given: nothing,
    act: (jobsd) => jobsd.createRuns(Asked, [undefined, undefined, undefined]),
    done: "state = 0",
    once: 3
  },
  {
    what: "createRun in a transaction",
    at: "create",
    given: nothing,
    act: (jobsd, _, sql) => sql.withTransaction(jobsd.createRun(Asked, undefined)),
    done: "state = 0",
    once: 1,
    rolledBack: true
  },
  {
    what: "cancel a waiting run",
    at: "cancel",
    given: one,
    act: (jobsd, [id]) => jobsd.cancel(id as Parameters<typeof jobsd.cancel>[0]),
    done: "state = 4 AND finished_at IS NOT NULL",
    once: 1
  },
  {
    what: "cancel a running run",
    at: "request cancel",
    given: (jobsd, world) => Effect.tap(one(jobsd), world.unsafe("UPDATE @_runs SET state = 1, fence = 1")),
    act: (jobsd, [id]) => jobsd.cancel(id as Parameters<typeof jobsd.cancel>[0]),
    done: "state = 1 AND cancel_at IS NOT NULL",
    once: 1
  }
]

/** Why an answer is late. */
const ways = ["sent late", "answered late", "waits for a lock"] as const

onEveryDatabase("a caller that is interrupted during a write", (it, database) => {
  // SQLite's client has one connection, however many are asked for
  for (const connections of database === "sqlite" ? [1] : [1, 2]) {
    it.scoped(
      `leaves it done once, and a pool of ${connections} whole`,
      () =>
        Effect.gen(function* () {
          const { url } = yield* Target
          const client = (size: number) => Effect.map(Layer.build(Layer.fresh(clientLayer(url, size))), Context.get(SqlClient.SqlClient))
          /** another program that holds whatever the operation needs; the effect returned lets go */
          const lock = (prefix: string) =>
            Effect.gen(function* () {
              const holder = yield* (yield* client(1)).reserve
              const send = (text: string) => holder.executeUnprepared(text, [], undefined)
              if (database === "sqlite") yield* eventually(Effect.exit(send("BEGIN IMMEDIATE")), Exit.isSuccess)
              else yield* send("BEGIN")
              if (database === "postgres") yield* send(`LOCK TABLE ${prefix}_runs IN SHARE ROW EXCLUSIVE MODE`)
              // with all gaps between them, and the one behind them
              if (database === "mysql") yield* send(`SELECT id FROM ${prefix}_runs FOR UPDATE`)
              return send("COMMIT")
            })

          const interrupt = (operation: Operation, way: (typeof ways)[number]) =>
            Effect.gen(function* () {
              const { act, at, done, given, once, rolledBack } = operation
              const faulty = makeFaulty(yield* client(connections))
              const world = yield* Effect.provideService(makeWorld, SqlClient.SqlClient, faulty.sql)
              yield* world.migrate
              const jobsd = yield* world.client()
              const ids = yield* given(jobsd, world)
              const sent = () => faulty.seen.filter(({ kind }) => kind === at).length
              const before = sent()
              // SQLite answers that it is locked, and is asked again
              const unlock = way === "waits for a lock" ? yield* lock(world.prefix) : Effect.void
              const late = { do: "delay", millis: 300 } as const
              if (way === "sent late") faulty.arm({ at, when: "before", nth: 1, act: late })
              if (way === "answered late") faulty.arm({ at, when: "after", nth: 1, act: late })
              // a transaction that waits for SQLite's lock has not got further than its beginning
              const begun = () => (database === "sqlite" ? faulty.errors.length > 0 : sent() > before)
              const onItsWay = () =>
                way === "answered late" ? faulty.struck() > 0 : way === "waits for a lock" ? begun() : sent() > before
              const caller = yield* Effect.fork(act(jobsd, ids, faulty.sql))
              yield* eventually(
                Effect.sync(() => ({ onItsWay: onItsWay(), ended: caller.unsafePoll() })),
                (now) => now.onItsWay || now.ended !== null
              )
              assert.isNull(caller.unsafePoll(), "it is still on its way")
              const interrupted = yield* Effect.fork(Fiber.interrupt(caller))
              // long enough for whoever would end at once
              yield* Effect.sleep("100 millis")
              const early = caller.unsafePoll()
              yield* unlock
              const exit = yield* Fiber.join(interrupted)
              const applied = (yield* world.rows("runs", `WHERE ${done}`)).length
              // all connections at once, and each of them answers
              const answers = yield* Effect.forEach(Array.from({ length: connections }), () => faulty.sql.reserve, {
                concurrency: "unbounded"
              }).pipe(
                Effect.flatMap((held) =>
                  Effect.forEach(held, (connection) => connection.executeUnprepared("SELECT 1 AS answer", [], undefined))
                ),
                Effect.scoped,
                Effect.timeout("5 seconds")
              )
              const id = yield* jobsd.createRun(Asked, undefined)
              const { status } = yield* jobsd.getRunState(id)
              return {
                what: `${operation.what}, ${way}`,
                // a conflict with the lock's holder is an answer, too, in the caller's own transaction
                ended: Exit.isSuccess(exit) || Cause.isInterruptedOnly(exit.cause) ? "well" : Cause.pretty(exit.cause),
                early: early !== null && rolledBack !== true,
                applied: rolledBack === true ? applied === (Exit.isSuccess(exit) ? once : 0) : applied === once,
                pool: answers.length,
                status
              }
            }).pipe(Effect.scoped)

          const cases = operations.flatMap((operation) => ways.map((way) => [operation, way] as const))
          const found = yield* Effect.forEach(
            // that the file is locked, SQLite tells a transaction of the caller's at once: there is nothing to be interrupted
            cases.filter(([{ rolledBack }, way]) => !(database === "sqlite" && rolledBack === true && way === "waits for a lock")),
            ([operation, way]) => interrupt(operation, way),
            { concurrency: database === "sqlite" ? 1 : 6 }
          )
          const wrong = found.filter(
            ({ applied, early, ended, pool, status }) => ended !== "well" || early || !applied || pool !== connections || status !== "ready"
          )
          report({
            row: 58,
            what: "callers interrupted while their write was on its way",
            database,
            count: found.length,
            result: wrong.length === 0 ? "passed" : "failed",
            figure: "each write done once, no connection lost, pools of 1 and 2"
          })
          assert.deepStrictEqual(wrong, [])
        }),
      limit(40, 40)
    )
  }
})
