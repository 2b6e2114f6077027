/**
 * Processes that die at a chosen statement: the library sends it, or has just sent it, and is gone. With the large counts that is each
 * statement that changes something or decides what is changed, those of a migration excepted (`deploys.test.ts` has them), and each that
 * the library sends by itself. What only rolls back, and what only reads for a caller, is left out: it leaves nothing behind.
 */
import { randomUUID } from "node:crypto"
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { DateTime, Effect, Fiber, Schedule } from "effect"
import { Job, type Jobsd, type Run } from "jobsd"
import { type DatabaseName, onEveryDatabase, Target } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { large, limit, report, scaled } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import type { Fault } from "./support/faultyClient.js"
import { untiring } from "./support/load.js"
import type { Kind } from "./support/statements.js"
import type { UserOptions } from "./support/user.js"
import { Act, Often } from "./support/work.js"
import { userUntilDeath, type Worker } from "./support/workers.js"
import { type AuditedWorld, allEnded, makeAuditedWorld } from "./support/world.js"

interface Point {
  readonly at: Kind
  readonly when: Fault["when"]
}

const both = (...kinds: ReadonlyArray<Kind>): ReadonlyArray<Point> =>
  kinds.flatMap((at) => (["before", "after"] as const).map((when) => ({ at, when })))

const after = (...kinds: ReadonlyArray<Kind>) => kinds.map((at): Point => ({ at, when: "after" }))

/** what every working instance does; the main points when time is short */
const pointsAtWork = (database: DatabaseName): ReadonlyArray<Point> => {
  if (!large) {
    return [...both("claim", "settle", "commit"), ...after("register", "heartbeat", "attempt", "successor"), { at: "stop", when: "before" }]
  }
  return [
    ...both("register", "heartbeat", "look", "claim", "begin", "settle", "attempt", "successor", "commit"),
    ...both("drain", "stop"),
    // PostgreSQL renews and compares in one statement
    ...(database === "postgres" ? [] : both("reconcile")),
    ...(database === "mysql" ? both("claim read", "settle lock") : [])
  ]
}

/** of one who finds runs of the dead */
const pointsInSweep: ReadonlyArray<Point> = large
  ? both("sweep look", "declare dead", "begin", "sweep lock", "attempt", "put back", "commit")
  : [...after("declare dead", "sweep lock", "put back"), { at: "commit", when: "before" }]

/** so that whoever sweeps or keeps house has nothing else to do, and no other transaction */
const claimsNothing: Fault = { at: "claim", when: "before", act: { do: "fail", cause: { message: "not today" } } }

const kill = ({ at, when }: Point, nth = 1): Fault => ({ at, when, nth, act: { do: "kill" } })

/** whether a process died at its point; it is dead afterwards in any case */
const diesAt = (victim: Worker) =>
  Effect.gen(function* () {
    const ended = yield* Effect.either(Effect.timeout(victim.exited, "15 seconds"))
    if (ended._tag === "Right" && ended.right === "SIGKILL") return true
    victim.kill("SIGKILL")
    return false
  })

const named = ({ at, when }: Point) => `${when} ${at}`

const count = (world: AuditedWorld, table: "runs" | "attempts") =>
  Effect.map(world.unsafe(`SELECT COUNT(*) AS count FROM @_${table}`), ([row]) => Number(row?.count))

const stateOf = (world: AuditedWorld, id: Run.RunId) => Effect.map(world.rows("runs", `WHERE id = '${id}'`), ([row]) => Number(row?.state))

/** Something that an instance does seldom: how it comes to it, and what must be true when it died there and when another has done it. */
interface Chore {
  readonly at: ReadonlyArray<Kind>
  /** the points when time is short */
  readonly atLeast: ReadonlyArray<Point>
  readonly prepare: (world: AuditedWorld, jobsd: Jobsd.Jobsd.Service) => Effect.Effect<ReadonlyArray<Run.RunId>>
  /** what happens to it once it is there; the runs that it is about */
  readonly meanwhile?: (
    world: AuditedWorld,
    victim: Worker,
    prepared: ReadonlyArray<Run.RunId>,
    jobsd: Jobsd.Jobsd.Service
  ) => Effect.Effect<ReadonlyArray<Run.RunId>>
  /** it works on runs, with this lease */
  readonly worksFor?: number
  readonly died?: (world: AuditedWorld, point: Point, id: Run.RunId) => Effect.Effect<void>
  readonly done: (world: AuditedWorld, id: Run.RunId) => Effect.Effect<unknown>
}

const Nobodys = Job.make("Nobodys")
const later = { ...untiring, delay: "1 hour" } as const
const one = (jobsd: Jobsd.Jobsd.Service) => Effect.map(Effect.orDie(jobsd.createRun(Act, { do: "succeed" }, later)), (id) => [id])

const chores: ReadonlyArray<Chore> = [
  {
    // a run that it owns, and has never heard of: the answer to its claim was lost
    at: ["release"],
    atLeast: after("release"),
    prepare: (_, jobsd) => one(jobsd),
    meanwhile: (world, victim, ids) => {
      const ready = victim.said.find((line) => line.say === "ready")
      return Effect.as(
        world.unsafe(
          `UPDATE @_runs SET state = 1, fence = fence + 1, owner = '${ready?.instance}', claim_token = '${randomUUID()}', claimed_at = 1
           WHERE id = '${ids[0]}'`
        ),
        ids
      )
    },
    died: (world, { when }, id) =>
      Effect.map(world.rows("runs", `WHERE id = '${id}'`), ([row]) => {
        assert.deepStrictEqual([Number(row?.state), Number(row?.crashes)], [when === "before" ? 1 : 0, 0])
      }),
    done: (world, id) => eventually(stateOf(world, id), (state) => state !== 1)
  },
  {
    // a run that was taken back while it worked on it
    at: ["settle check"],
    atLeast: after("settle check"),
    // it is nobody's to sweep before the test is over
    worksFor: 30_000,
    prepare: () => Effect.succeed([]),
    meanwhile: (world, victim, _, jobsd) =>
      Effect.gen(function* () {
        // the first heartbeat would see at once that the run is lost
        yield* eventually(world.rows("instances", "WHERE seen_at > started_at"), (seen) => seen.length === 1)
        const id = yield* Effect.orDie(jobsd.createRun(Act, { do: "succeed", millis: 500 }, untiring))
        yield* eventually(
          Effect.sync(() => victim.atWork()),
          (atWork) => atWork.length === 1
        )
        yield* world.unsafe(
          `UPDATE @_runs SET state = 6, fence = fence + 1, crashes = crashes + 1, owner = NULL, deadline_at = NULL, run_at = run_at + 3600000
           WHERE id = '${id}'`
        )
        return [id]
      }),
    done: (world, id) => Effect.map(stateOf(world, id), (state) => assert.strictEqual(state, 6))
  },
  {
    // more attempts than are kept of a run
    at: ["forget attempts"],
    atLeast: [],
    worksFor: 3000,
    prepare: (_, jobsd) => {
      const options = { ...untiring, retriesOnError: Number.POSITIVE_INFINITY, backoff: Schedule.spaced(10) }
      return Effect.map(Effect.orDie(jobsd.createRun(Act, { do: "fail", times: 24 }, options)), (id) => [id])
    },
    done: (world, id) => eventually(stateOf(world, id), (state) => state === 2, "20 seconds")
  },
  {
    at: ["chores look", "unknown look", "park"],
    atLeast: after("park"),
    prepare: (_, jobsd) =>
      Effect.map(Effect.orDie(jobsd.createRun(Nobodys, undefined, { runAt: DateTime.unsafeMake(1000) })), (id) => [id]),
    done: (world, id) => eventually(stateOf(world, id), (state) => state === 5)
  },
  {
    at: ["unpark"],
    atLeast: after("unpark"),
    prepare: (world, jobsd) => Effect.tap(one(jobsd), ([id]) => world.unsafe(`UPDATE @_runs SET state = 5 WHERE id = '${id}'`)),
    done: (world, id) => eventually(stateOf(world, id), (state) => state === 0)
  },
  {
    at: ["begin", "outlived lock", "delete attempts", "delete runs", "commit"],
    atLeast: [{ at: "delete runs", when: "before" }],
    prepare: (world, jobsd) =>
      Effect.gen(function* () {
        for (const [id] of yield* Effect.replicateEffect(one(jobsd), 3)) {
          yield* Effect.orDie(jobsd.cancel(id!))
          yield* world.unsafe(`INSERT INTO @_attempts (run_id, fence, attempt, ended_at, outcome) VALUES ('${id}', 1, 1, 1, 'error')`)
        }
        yield* world.unsafe("UPDATE @_runs SET finished_at = 1")
        return []
      }),
    // all or nothing
    died: (world, point) =>
      Effect.gen(function* () {
        const left = point.at === "commit" && point.when === "after" ? 0 : 3
        assert.deepStrictEqual([yield* count(world, "runs"), yield* count(world, "attempts")], [left, left])
      }),
    done: (world) => eventually(Effect.all([count(world, "runs"), count(world, "attempts")]), ([runs, attempts]) => runs + attempts === 0)
  },
  {
    at: ["forget instances"],
    atLeast: [],
    prepare: (world) =>
      Effect.as(
        world.unsafe(
          `INSERT INTO @_instances (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
           VALUES ('${randomUUID()}', 'long gone', 1, 3, '[]', '[]', '{}', 1, 1, 1, '{}')`
        ),
        []
      ),
    done: (world) => eventually(world.rows("instances", "WHERE host = 'long gone'"), (left) => left.length === 0)
  }
]

onEveryDatabase("a process", (it, database) => {
  it.scoped(
    "that dies before or after a statement of its work, or of its sweep, costs no run, and records none twice",
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
        // whole ones: a run that never ends and whose cancellation is never asked for would be waited for in vain
        const feed = Effect.forever(
          Effect.zipRight(
            Effect.forEach(outcomes, (create) => Effect.uninterruptible(Effect.map(create, (id) => accepted.push(id)))),
            Effect.sleep("200 millis")
          )
        )

        const die = (point: Point, others: ReadonlyArray<Fault> = []) =>
          Effect.gen(function* () {
            const victim = yield* world.worker({ faults: [...others, kill(point)], workers: 2, connections: 2 })
            if (point.at === "drain" || point.at === "stop") victim.kill("SIGTERM")
            if (yield* diesAt(victim)) hit++
            else unhit.push(named(point))
          })

        for (let round = 0; round < rounds; round++) {
          // nobody else is at work, so what they leave behind stays
          const feeding = yield* Effect.forkScoped(feed)
          yield* Effect.forEach(pointsAtWork(database), (point) => die(point), { concurrency: 5, discard: true })
          // on a slow machine the later of them have found what the first ones left
          yield* die({ at: "claim", when: "after" })
          yield* Fiber.interrupt(feeding)
          yield* eventually(world.unsafe("SELECT id FROM @_runs r WHERE state = 1"), (left) => left.length > 0)
          // their leases end, and each who would sweep dies at it
          yield* Effect.sleep("3100 millis")
          yield* Effect.forEach(pointsInSweep, (point) => die(point, [claimsNothing]), { discard: true })
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

  it.scoped(
    "that dies before or after it gives back, parks, or deletes leaves it done or undone, and the next one goes on",
    () =>
      Effect.gen(function* () {
        const points = chores.flatMap((chore) => (large ? both(...chore.at) : chore.atLeast).map((point) => ({ chore, point })))
        const unhit: Array<string> = []
        const found = yield* Effect.forEach(
          points,
          ({ chore, point }) =>
            Effect.gen(function* () {
              const world = yield* makeAuditedWorld
              const jobsd = yield* world.client()
              const prepared = yield* chore.prepare(world, jobsd)
              const victim = yield* world.worker({
                workers: 1,
                connections: 2,
                leaseMillis: chore.worksFor ?? 3000,
                faults: chore.worksFor === undefined ? [claimsNothing, kill(point)] : [kill(point)]
              })
              const ids = yield* chore.meanwhile?.(world, victim, prepared, jobsd) ?? Effect.succeed(prepared)
              if (!(yield* diesAt(victim))) unhit.push(named(point))
              yield* chore.died?.(world, point, ids[0]!) ?? Effect.void
              yield* world.worker({ workers: 1, connections: 2 })
              yield* chore.done(world, ids[0]!)
              yield* Effect.forEach(ids, (id) => Effect.orDie(jobsd.cancel(id)))
              yield* allEnded(world)
              // what is deleted is not accounted for, and was made to look old by hand
              return ids.length === 0 ? noDefects : defects(yield* world.verdict(ids))
            }).pipe(Effect.scoped),
          { concurrency: 3 }
        )
        report({
          row: 2,
          what: "SIGKILL at what is done seldom",
          database,
          count: points.length - unhit.length,
          result: unhit.length === 0 && found.every((one) => isDeepStrictEqual(one, noDefects)) ? "passed" : "failed",
          figure: `${points.length - unhit.length} of ${points.length} points hit, the next process went on`
        })
        assert.deepStrictEqual(unhit, [])
        for (const one of found) assert.deepStrictEqual(one, noDefects)
      }),
    limit(60, 300)
  )

  /** what a program does, and where; what must be there of the last thing it asked for, whose answer it did not get */
  const asks: ReadonlyArray<{ readonly does: UserOptions["does"]; readonly point: Point; readonly happened: boolean }> = [
    { does: "create", point: { at: "create", when: "before" }, happened: false },
    { does: "create", point: { at: "create", when: "after" }, happened: true },
    // one statement, but on MariaDB a transaction
    ...(database === "mysql"
      ? ([
          ...both("begin", "create").map((point) => ({ does: "create many", point, happened: false }) as const),
          { does: "create many", point: { at: "commit", when: "before" }, happened: false },
          { does: "create many", point: { at: "commit", when: "after" }, happened: true }
        ] as const)
      : ([
          { does: "create many", point: { at: "create", when: "before" }, happened: false },
          { does: "create many", point: { at: "create", when: "after" }, happened: true }
        ] as const)),
    { does: "cancel", point: { at: "cancel", when: "before" }, happened: false },
    { does: "cancel", point: { at: "cancel", when: "after" }, happened: true },
    { does: "request cancel", point: { at: "request cancel", when: "before" }, happened: false },
    { does: "request cancel", point: { at: "request cancel", when: "after" }, happened: true }
  ]

  it.scoped(
    "that dies before or after it creates or cancels has done it wholly or not at all, and what it was told stays true",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Target
        const rounds = scaled(1, 10)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        yield* world.worker({ workers: 20 })
        const accepted: Array<Run.RunId> = []
        let killed = 0
        let told = 0
        let maybe = 0
        const chosen = large ? asks : asks.filter(({ happened, does }) => happened && does !== "create many")
        yield* Effect.forEach(
          Array.from({ length: rounds }, () => chosen).flat(),
          ({ does, happened, point }, i) =>
            Effect.gen(function* () {
              // it has been told something by then
              const from = 1000 * (i + 1)
              const { diedOf, said } = yield* userUntilDeath({ url, prefix: world.prefix, does, from, faults: [kill(point, 3)] })
              assert.strictEqual(diedOf, "SIGKILL", `${does}: not ${named(point)}`)
              killed++
              const rows = yield* world.rows<{ readonly id: Run.RunId; readonly payload: string }>("runs")
              const idsOf = (number: number) =>
                rows.flatMap(({ id, payload }) => (JSON.parse(payload).times === number ? [String(id).trim() as Run.RunId] : []))
              for (const asked of said) {
                if (asked.say !== "creates") continue
                const answer = said.find((line) => line.say === "created" && line.number === asked.number)
                const ids = idsOf(asked.number)
                accepted.push(...ids)
                if (answer?.say === "created") {
                  told += answer.ids.length
                  assert.sameMembers(ids, [...answer.ids])
                } else {
                  maybe += asked.count
                  assert.lengthOf(ids, happened ? asked.count : 0, `${does}: ${named(point)}`)
                }
              }
              for (const asked of said) {
                if (asked.say !== "cancels") continue
                const isAnswered = said.some((line) => line.say === "cancelled" && line.id === asked.id)
                const [row] = yield* world.rows("runs", `WHERE id = '${asked.id}'`)
                const isCancelled = row?.cancel_at !== null || Number(row?.state) === 4
                assert.strictEqual(isCancelled, isAnswered || happened, `${does}: ${named(point)}`)
                if (!isCancelled) yield* Effect.orDie(jobsd.cancel(asked.id))
              }
            }),
          { concurrency: 3, discard: true }
        )
        yield* allEnded(world)
        const verdict = yield* world.verdict(accepted)
        report({
          row: 2,
          what: "SIGKILL of one who creates and cancels",
          database,
          count: killed,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${killed} killed, ${told} runs whose id was told and ${maybe} that may have been created, lost ${verdict.lost.length}, twice ${verdict.twice.length}`
        })
        assert.isAbove(told, 0)
        assert.isAbove(maybe, 0)
        assert.strictEqual(verdict.seen.runs, accepted.length)
        assert.deepStrictEqual(defects(verdict), noDefects)
      }),
    limit(60, 300)
  )
})
