/** Every question asked of the runs table, one named function each. */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { InstanceId } from "../../Instance.js"
import { RetryTransaction, StorageError } from "../../JobsdError.js"
import type { RunId, RunState } from "../../Run.js"
import { type Settlement, State } from "../lifecycle.js"
import type { Database, Row, Session, Values } from "./database.js"
import type { ColumnType } from "./dialect.js"
import {
  attemptOf,
  type ClaimedRun,
  claimColumns,
  claimedRun,
  number,
  numberOrNull,
  runState,
  stateColumns,
  string,
  stringOrNull
} from "./runRow.js"
import type { Statement } from "./statement.js"

/** A run to be created. */
export interface NewRun {
  readonly id: RunId
  readonly job: string
  readonly queue: string
  readonly schedule: string | null
  readonly name: string | null
  readonly uniqueKey: string | null
  readonly priority: number
  /** a moment of the database's clock, or null for now */
  readonly runAt: number | null
  /** added to that moment */
  readonly delayMillis: number
  readonly createdBy: InstanceId
  readonly maxErrors: number | null
  readonly maxTimeouts: number | null
  readonly maxCrashes: number | null
  readonly timeoutMillis: number | null
  readonly successLimit: number | null
  readonly backoff: string | null
  readonly payload: string
  readonly payloadBytes: number
  readonly traceparent: string | null
}

/** The jobs and schedules an instance knows. */
export interface Known {
  readonly jobs: ReadonlyArray<string>
  readonly schedules: ReadonlyArray<string>
}

/** A settled attempt: whose it is, what to write, and the id of what follows. */
export interface Settled {
  readonly run: ClaimedRun
  readonly settlement: Settlement
  /** the true start of the attempt, or null if it did not start */
  readonly startedAt: number | null
  readonly successorId: RunId | null
}

/** What cancelling has come to. */
export type CancelResult = "cancelled" | "requested" | "finished"

export interface RunStore {
  /** the database's clock */
  readonly now: Effect.Effect<number, StorageError>
  /** creates a run, in the caller's transaction if it is ours; the id of the run that holds its unique key if there is one */
  readonly insert: (run: NewRun) => Effect.Effect<RunId, StorageError | RetryTransaction>
  readonly latestOfChain: (id: RunId) => Effect.Effect<Option.Option<RunState>, StorageError>
  readonly cancelWaiting: (id: RunId) => Effect.Effect<boolean, StorageError>
  readonly requestCancel: (id: RunId) => Effect.Effect<boolean, StorageError>
  readonly claim: (queue: string, limit: number, token: string) => Effect.Effect<ReadonlyArray<ClaimedRun>, StorageError>
  /** how long until the next run of a known job is due, per queue; not positive: it is due. No entry: nothing waits. */
  readonly nextDue: Effect.Effect<ReadonlyMap<string, number>, StorageError>
  /** writes what is still ours; returns the ids that were */
  readonly settleOurs: (group: ReadonlyArray<Settled>) => Effect.Effect<ReadonlySet<string>, StorageError>
  /** those of a group that an earlier, unacknowledged write of ours has settled */
  readonly settledBefore: (group: ReadonlyArray<Settled>) => Effect.Effect<ReadonlySet<string>, StorageError>
  /** gives back a run that we own but do not know, uncounted */
  readonly releaseUnknown: (id: RunId, fence: number) => Effect.Effect<boolean, StorageError>
  /** declares instances dead, and puts back the runs of the dead and the overdue; returns how many */
  readonly sweep: (leaseMillis: number) => Effect.Effect<number, StorageError>
  readonly park: Effect.Effect<number, StorageError>
  readonly unpark: Effect.Effect<number, StorageError>
  /** deletes at most 1,000 runs that finished longer ago than they are kept; returns how many */
  readonly deleteFinished: (state: State, keptMillis: number) => Effect.Effect<number, StorageError>
}

/** How many runs one sweep or one deletion takes at most. */
const sweepBatch = 100
const retentionBatch = 1000
/** How many earlier attempts of a run are kept. */
const attemptsKept = 20

const insertedColumns = {
  id: "id",
  job: "name",
  queue: "name",
  schedule: "name",
  name: "text",
  unique_key: "key",
  priority: "small",
  due: "big",
  delay: "big",
  created_by: "id",
  max_errors: "int",
  max_timeouts: "int",
  max_crashes: "int",
  timeout_ms: "big",
  success_limit: "int",
  backoff: "text",
  payload: "text",
  payload_bytes: "int",
  traceparent: "text"
} satisfies { [column: string]: ColumnType }

/** what a run hands to its successor as it is */
const inherited = [
  "job",
  "queue",
  "schedule",
  "name",
  "priority",
  "created_by",
  "max_errors",
  "max_timeouts",
  "max_crashes",
  "timeout_ms",
  "success_limit",
  "backoff",
  "payload",
  "payload_bytes",
  "traceparent"
]

const settledColumns = {
  run_id: "id",
  fence: "big",
  token: "id",
  state: "small",
  delay: "big",
  errors: "int",
  timeouts: "int",
  success_count: "int",
  result: "text",
  error: "text",
  late: "small",
  started_at: "big"
} satisfies { [column: string]: ColumnType }

const successorColumns = {
  predecessor: "id",
  id: "id",
  due: "big",
  success_count: "int",
  unique_key: "key"
} satisfies { [column: string]: ColumnType }

const attemptColumns = {
  run_id: "id",
  fence: "big",
  attempt: "int",
  started_at: "big",
  outcome: "name",
  error: "text"
} satisfies { [column: string]: ColumnType }

/** JSON leaves out what is undefined, and what is left out is NULL on every database */
const orAbsent = <A>(value: A | null): A | undefined => (value === null ? undefined : value)
const json = JSON.stringify

export const make = (database: Database, me: InstanceId, known: Known, queues: ReadonlyArray<string>, leaseMillis: number): RunStore => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { attempts, instances, runs } = tables

  // ---- what this instance knows, as conditions with parameters

  const placeholders = (prefix: string, names: ReadonlyArray<string>) => names.map((_, i) => `:${prefix}${i}`).join(", ")
  const valuesOf = (prefix: string, names: ReadonlyArray<string>): Values =>
    Object.fromEntries(names.map((name, i) => [`${prefix}${i}`, name]))
  const knownSchedules = known.schedules.length === 0 ? "" : ` OR schedule IN (${placeholders("schedule", known.schedules)})`
  const knownSql =
    known.jobs.length === 0 ? "AND 1 = 0" : `AND job IN (${placeholders("job", known.jobs)}) AND (schedule IS NULL${knownSchedules})`
  const knownValues = { ...valuesOf("job", known.jobs), ...valuesOf("schedule", known.schedules) }

  // ---- create

  const insertRuns = statement(`
    INSERT INTO ${runs} (id, origin_id, occurrence, job, queue, schedule, name, unique_key, state, priority, run_at, created_at,
      created_by, fence, errors, timeouts, crashes, max_errors, max_timeouts, max_crashes, timeout_ms, success_count,
      success_limit, backoff, payload, payload_bytes, late, traceparent)
    SELECT d.id, d.id, 0, d.job, d.queue, d.schedule, d.name, d.unique_key, ${State.ready}, d.priority, COALESCE(d.due, ${now}) + d.delay, ${now},
      d.created_by, 0, 0, 0, 0, d.max_errors, d.max_timeouts, d.max_crashes, d.timeout_ms, 0,
      d.success_limit, d.backoff, d.payload, d.payload_bytes, 0, d.traceparent
    FROM ${dialect.rows(":rows", insertedColumns)}
    WHERE 1 = 1
    ${dialect.returning ? "ON CONFLICT DO NOTHING RETURNING id" : ""}`)

  const findHolder = statement(`SELECT id FROM ${runs} WHERE id = :id OR unique_key = :key ${dialect.currentRead}`)

  const insertOrFind = (session: Session, run: NewRun): Effect.Effect<RunId | null, SqlError> => {
    const rows = json([
      {
        id: run.id,
        job: run.job,
        queue: run.queue,
        schedule: orAbsent(run.schedule),
        name: orAbsent(run.name),
        unique_key: orAbsent(run.uniqueKey),
        priority: run.priority,
        due: orAbsent(run.runAt),
        delay: run.delayMillis,
        created_by: run.createdBy,
        max_errors: orAbsent(run.maxErrors),
        max_timeouts: orAbsent(run.maxTimeouts),
        max_crashes: orAbsent(run.maxCrashes),
        timeout_ms: orAbsent(run.timeoutMillis),
        success_limit: orAbsent(run.successLimit),
        backoff: orAbsent(run.backoff),
        payload: run.payload,
        payload_bytes: run.payloadBytes,
        traceparent: orAbsent(run.traceparent)
      }
    ])
    const holder = Effect.map(session.rows(findHolder, { id: run.id, key: run.uniqueKey }), (found) => {
      const ids = found.map((row) => string(row.id))
      return (ids.includes(run.id) ? run.id : (ids[0] ?? null)) as RunId | null
    })
    return dialect.returning
      ? Effect.flatMap(session.rows(insertRuns, { rows }), (inserted) => (inserted.length > 0 ? Effect.succeed(run.id) : holder))
      : Effect.catchAll(Effect.as(session.affected(insertRuns, { rows }), run.id as RunId | null), (error) =>
          dialect.failure(error) === "unique" ? holder : Effect.fail(error)
        )
  }

  const insert: RunStore["insert"] = (run) =>
    Effect.flatMap(
      database.callersTransaction,
      Option.match({
        // the holder of the key can end between the insert and the look: then there is room for ours
        onNone: () =>
          Effect.flatMap(
            Effect.repeat(
              database.write("create a run", (session) => insertOrFind(session, run)),
              { until: (id) => id !== null, times: 5 }
            ),
            (id) => (id === null ? Effect.fail(new StorageError({ operation: "create a run", reason: "contention" })) : Effect.succeed(id))
          ),
        onSome: (session) =>
          insertOrFind(session, run).pipe(
            Effect.uninterruptible,
            Effect.mapError((error): StorageError | RetryTransaction => {
              const failed = database.failed("create a run", false)(error)
              return failed.reason === "contention" ? new RetryTransaction({ operation: failed.operation, cause: failed.cause }) : failed
            }),
            Effect.flatMap((id) => (id === null ? new RetryTransaction({ operation: "create a run" }) : Effect.succeed(id)))
          )
      })
    )

  // ---- read and cancel

  const selectNow = statement(`SELECT ${now} AS now`)

  const selectLatest = statement(`
    SELECT ${stateColumns.join(", ")} FROM ${runs}
    WHERE origin_id = COALESCE((SELECT origin_id FROM ${runs} WHERE id = ${dialect.id(":id")}), ${dialect.id(":id")})
    ORDER BY occurrence DESC
    LIMIT 1`)

  const cancelIfWaiting = statement(`
    UPDATE ${runs}
    SET state = ${State.cancelled}, finished_at = ${now}, unique_key = NULL
    WHERE id = :id AND state IN (${State.ready}, ${State.parked})`)

  const requestIfRunning = statement(`
    UPDATE ${runs}
    SET cancel_at = COALESCE(cancel_at, ${now})
    WHERE id = :id AND state = ${State.running}`)

  const changed = (operation: string, change: Statement) => (id: RunId) =>
    Effect.map(
      database.write(operation, (session) => session.affected(change, { id })),
      (rows) => rows > 0
    )

  // ---- claim

  const claimSql = {
    known: knownSql,
    set: `state = ${State.running}, fence = r.fence + 1, owner = :me, claim_token = :token, claimed_at = ${now},
      deadline_at = ${now} + r.timeout_ms + ${dialect.big(":lease")}`,
    alive: `EXISTS (SELECT 1 FROM ${instances} i WHERE i.id = :me AND i.state = 0 AND i.lease_until >= ${now})`,
    columns: claimColumns
  }
  const claimTexts = new Map<number, Statement>()
  const claimStatement = (limit: number) => {
    const known = claimTexts.get(limit) ?? statement(dialect.claim(tables, { ...claimSql, limit: dialect.limit(limit) }))
    claimTexts.set(limit, known)
    return known
  }
  const selectClaimed = statement(`
    SELECT ${claimColumns.join(", ")} FROM ${runs}
    WHERE owner = :me AND claim_token = :token AND state = ${State.running}`)

  const claim: RunStore["claim"] = (queue, asked, token) => {
    // a text per limit: few of them, so that they stay prepared
    const limit = asked <= 32 ? asked : asked - (asked % 32)
    const values = { queue, me, token, lease: leaseMillis, ...knownValues }
    return Effect.map(
      database.write("claim runs", (session) =>
        dialect.returning
          ? session.rows(claimStatement(limit), values)
          : Effect.flatMap(session.affected(claimStatement(limit), values), (claimed) =>
              claimed === 0 ? Effect.succeed([]) : session.rows(selectClaimed, { me, token })
            )
      ),
      (rows) => rows.map(claimedRun).sort(byPriority)
    )
  }

  // one index probe per queue and priority: what is due and when the next one is, whatever waits behind it
  const selectNextDue = statement(
    queues
      .flatMap((_, q) =>
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(
          (priority) => `
      SELECT * FROM (
        SELECT ${q} AS queue, run_at - ${now} AS wait FROM ${runs} ${dialect.useClaimIndex(tables)}
        WHERE state = ${State.ready} AND queue = :queue${q} AND priority = ${priority} ${knownSql}
        ORDER BY run_at
        LIMIT 1
      ) q${q}p${priority}`
        )
      )
      .join(" UNION ALL ")
  )
  const nextDueValues = { ...valuesOf("queue", queues), ...knownValues }
  const nextDue: RunStore["nextDue"] = Effect.map(
    database.read("look for due runs", (session) => session.rows(selectNextDue, nextDueValues)),
    (rows) => {
      const waits = new Map<string, number>()
      for (const row of rows) {
        const queue = queues[number(row.queue)]!
        waits.set(queue, Math.min(waits.get(queue) ?? Number.POSITIVE_INFINITY, number(row.wait)))
      }
      return waits
    }
  )

  // ---- settle

  const goesOn = `(d.state = ${State.ready} AND r.cancel_at IS NULL)`
  const guard = `r.fence = d.fence AND r.claim_token = d.token AND r.state = ${State.running}`
  const settleIfOurs = statement(
    dialect.updateFrom({
      table: runs,
      rows: dialect.rows(":rows", settledColumns),
      // a retry or a release of a run that is to be cancelled becomes its cancellation
      set: {
        state: `CASE WHEN d.state = ${State.ready} AND r.cancel_at IS NOT NULL THEN ${State.cancelled} ELSE d.state END`,
        run_at: `CASE WHEN d.delay IS NULL THEN r.run_at ELSE ${now} + d.delay END`,
        finished_at: `CASE WHEN ${goesOn} THEN NULL ELSE ${now} END`,
        unique_key: `CASE WHEN ${goesOn} THEN r.unique_key ELSE NULL END`,
        owner: "NULL",
        deadline_at: "NULL",
        errors: "d.errors",
        timeouts: "d.timeouts",
        success_count: "d.success_count",
        result: "d.result",
        error: `CASE WHEN d.state = ${State.ready} AND d.delay IS NULL THEN r.error ELSE d.error END`,
        late: "d.late",
        started_at: "COALESCE(d.started_at, r.started_at)",
        started_by: `CASE WHEN d.started_at IS NULL THEN r.started_by ELSE ${dialect.id(":me")} END`
      },
      on: "r.id = d.run_id",
      where: guard
    })
  )
  const lockOurs = statement(`
    SELECT r.id FROM ${runs} r
    JOIN ${dialect.rows(":rows", settledColumns)} ON r.id = d.run_id
    WHERE ${guard}
    ${dialect.forUpdate}`)

  const insertSuccessors = statement(`
    INSERT INTO ${runs} (id, origin_id, occurrence, state, run_at, created_at, unique_key, success_count, fence, errors, timeouts,
      crashes, late, ${inherited.join(", ")})
    SELECT d.id, r.origin_id, r.occurrence + 1, ${State.ready}, d.due, ${now}, d.unique_key, d.success_count, 0, 0, 0,
      0, 0, ${inherited.map((column) => `r.${column}`).join(", ")}
    FROM ${dialect.rows(":rows", successorColumns)}
    JOIN ${runs} r ON r.id = d.predecessor
    WHERE r.cancel_at IS NULL`)

  const insertAttempts = statement(`
    INSERT INTO ${attempts} (run_id, fence, attempt, started_at, ended_at, instance, outcome, error)
    SELECT d.run_id, d.fence, d.attempt, d.started_at, ${now}, ${dialect.id(":me")}, d.outcome, d.error
    FROM ${dialect.rows(":rows", attemptColumns)}`)

  const forgetAttempts = statement(`DELETE FROM ${attempts} WHERE run_id = :id AND attempt <= :attempt`)

  const settledRows = (group: ReadonlyArray<Settled>) =>
    json(
      group.map(({ run, settlement, startedAt }) => ({
        run_id: run.id,
        fence: run.fence,
        token: run.token,
        state: settlement.state,
        delay: orAbsent(settlement.delayMillis),
        errors: settlement.errors,
        timeouts: settlement.timeouts,
        success_count: settlement.successCount,
        result: orAbsent(settlement.result),
        error: orAbsent(settlement.error),
        late: settlement.late ? 1 : 0,
        started_at: orAbsent(startedAt)
      }))
    )

  const ids = (rows: ReadonlyArray<Row>): ReadonlySet<string> => new Set(rows.map((row) => string(row.id)))

  const writeOurs = (session: Session, group: ReadonlyArray<Settled>): Effect.Effect<ReadonlySet<string>, SqlError> => {
    const rows = settledRows(group)
    return dialect.returning
      ? Effect.map(session.rows(settleIfOurs, { rows, me }), ids)
      : Effect.flatMap(Effect.map(session.rows(lockOurs, { rows }), ids), (ours) =>
          Effect.as(session.affected(settleIfOurs, { rows, me }), ours)
        )
  }

  const settleOurs: RunStore["settleOurs"] = (group) => {
    const simple = group.every(({ settlement }) => settlement.successor === null && settlement.keepAttempt === null)
    if (simple && dialect.returning) {
      return database.write("settle runs", (session) => writeOurs(session, group))
    }
    return database.transact("settle runs", (session) =>
      Effect.gen(function* () {
        const ours = yield* writeOurs(session, group)
        const mine = group.filter(({ run }) => ours.has(run.id))
        const followed = mine.filter(({ settlement }) => settlement.successor !== null)
        if (followed.length > 0) {
          yield* session.affected(insertSuccessors, {
            rows: json(
              followed.map(({ run, settlement, successorId }) => ({
                predecessor: run.id,
                id: successorId,
                due: settlement.successor!.runAt,
                success_count: settlement.successor!.successCount,
                unique_key: orAbsent(run.uniqueKey)
              }))
            )
          })
        }
        const kept = mine.filter(({ settlement }) => settlement.keepAttempt !== null)
        if (kept.length > 0) {
          yield* session.affected(insertAttempts, {
            me,
            rows: json(
              kept.map(({ run, settlement, startedAt }) => ({
                run_id: run.id,
                fence: run.fence,
                attempt: attemptOf(run),
                started_at: orAbsent(startedAt),
                outcome: settlement.keepAttempt,
                error: orAbsent(settlement.error)
              }))
            )
          })
          for (const { run } of kept) {
            if (attemptOf(run) > attemptsKept) {
              yield* session.affected(forgetAttempts, { id: run.id, attempt: attemptOf(run) - attemptsKept })
            }
          }
        }
        return ours
      })
    )
  }

  const selectSettled = statement(`
    SELECT r.id FROM ${runs} r
    JOIN ${dialect.rows(":rows", settledColumns)} ON r.id = d.run_id
    WHERE r.fence = d.fence AND r.claim_token = d.token AND r.state <> ${State.running}`)

  const settledBefore: RunStore["settledBefore"] = (group) =>
    Effect.map(
      database.read("look for settled runs", (session) => session.rows(selectSettled, { rows: settledRows(group) })),
      ids
    )

  const releaseIfUnknown = statement(`
    UPDATE ${runs}
    SET state = ${State.ready}, fence = fence + 1, owner = NULL, deadline_at = NULL
    WHERE id = :id AND fence = :fence AND owner = :me AND state = ${State.running}`)

  // ---- sweep

  const orphaned = `r.state = ${State.running} AND NOT EXISTS (SELECT 1 FROM ${instances} i WHERE i.id = r.owner AND i.state IN (0, 1))`
  const overdue = `r.state = ${State.running} AND r.deadline_at < ${now} - ${dialect.big(":lease")}`
  const expired = `i.state IN (0, 1) AND i.lease_until < ${now}`

  // an idle sweep is this one statement
  const selectTrouble = statement(`
    SELECT (SELECT COUNT(*) FROM ${instances} i WHERE ${expired}) AS expired,
           (SELECT COUNT(*) FROM ${runs} r WHERE ${orphaned}) AS orphaned,
           (SELECT COUNT(*) FROM ${runs} r WHERE ${overdue}) AS overdue`)

  const declareDead = statement(`
    UPDATE ${instances} AS i
    SET state = 3
    WHERE ${expired}`)

  const lockTroubled = (condition: string) =>
    statement(`
      SELECT r.id, r.fence, r.errors, r.timeouts, r.crashes, r.claimed_at, r.owner FROM ${runs} r
      WHERE ${condition}
      ORDER BY r.id
      LIMIT ${sweepBatch}
      ${dialect.skipLockedRuns}`)
  const lockOrphaned = lockTroubled(orphaned)
  const lockOverdue = lockTroubled(overdue)

  const takenBackColumns = { run_id: "id", fence: "big", claimed_at: "big", owner: "id" } satisfies { [column: string]: ColumnType }
  const putBack = (counter: "crashes" | "timeouts") =>
    statement(
      dialect.updateFrom({
        table: runs,
        rows: dialect.rows(":rows", takenBackColumns),
        set: {
          state: `CASE WHEN r.cancel_at IS NULL THEN ${State.ready} ELSE ${State.cancelled} END`,
          finished_at: `CASE WHEN r.cancel_at IS NULL THEN NULL ELSE ${now} END`,
          unique_key: "CASE WHEN r.cancel_at IS NULL THEN r.unique_key ELSE NULL END",
          run_at: now,
          fence: "r.fence + 1",
          [counter]: `r.${counter} + 1`,
          started_at: "d.claimed_at",
          started_by: "d.owner",
          owner: "NULL",
          deadline_at: "NULL"
        },
        on: "r.id = d.run_id",
        where: `r.fence = d.fence AND r.state = ${State.running}`
      })
    )
  const putBackCrashed = putBack("crashes")
  const putBackOverdue = putBack("timeouts")

  const sweepAttemptColumns = { ...attemptColumns, instance: "id" } satisfies { [column: string]: ColumnType }
  const insertSweptAttempts = statement(`
    INSERT INTO ${attempts} (run_id, fence, attempt, started_at, ended_at, instance, outcome, error)
    SELECT d.run_id, d.fence, d.attempt, d.started_at, ${now}, d.instance, d.outcome, d.error
    FROM ${dialect.rows(":rows", sweepAttemptColumns)}`)

  const rescue = (lock: Statement, back: Statement, outcome: "crash" | "timeout", lease: number) =>
    database.transact("rescue runs", (session) =>
      Effect.gen(function* () {
        const troubled = yield* session.rows(lock, { lease })
        if (troubled.length === 0) return 0
        yield* session.affected(insertSweptAttempts, {
          rows: json(
            troubled.map((row) => ({
              run_id: string(row.id),
              fence: number(row.fence),
              attempt: number(row.errors) + number(row.timeouts) + number(row.crashes) + 1,
              started_at: orAbsent(numberOrNull(row.claimed_at)),
              instance: orAbsent(stringOrNull(row.owner)),
              outcome,
              error: outcome === "crash" ? "the instance that ran it died" : "it ran over its time, and its instance did not stop it"
            }))
          )
        })
        yield* session.affected(back, {
          rows: json(
            troubled.map((row) => ({
              run_id: string(row.id),
              fence: number(row.fence),
              claimed_at: orAbsent(numberOrNull(row.claimed_at)),
              owner: orAbsent(stringOrNull(row.owner))
            }))
          )
        })
        return troubled.length
      })
    )

  const sweep: RunStore["sweep"] = (lease) =>
    Effect.gen(function* () {
      const trouble = (yield* database.read("look for dead instances", (session) => session.rows(selectTrouble, { lease })))[0]!
      if (number(trouble.expired) > 0) {
        yield* database.write("declare instances dead", (session) => session.affected(declareDead, {}))
      }
      let rescued = 0
      if (number(trouble.expired) + number(trouble.orphaned) > 0) {
        rescued += yield* rescue(lockOrphaned, putBackCrashed, "crash", lease)
      }
      if (number(trouble.overdue) > 0) {
        rescued += yield* rescue(lockOverdue, putBackOverdue, "timeout", lease)
      }
      return rescued
    })

  // ---- park

  const selectKnown = statement(`SELECT jobs, schedules FROM ${instances} WHERE state IN (0, 1)`)
  const nameColumns = { name: "name" } satisfies { [column: string]: ColumnType }
  // due for a minute, so that an instance that is just starting has its chance
  const parkUnknown = statement(
    dialect.updateLimited({
      table: runs,
      set: `state = ${State.parked}`,
      where: `state = ${State.ready} AND run_at <= ${now} - 60000 AND (
        job NOT IN (SELECT d.name FROM ${dialect.rows(":jobs", nameColumns)})
        OR (schedule IS NOT NULL AND schedule NOT IN (SELECT d.name FROM ${dialect.rows(":schedules", nameColumns)})))`,
      limit: 1000
    })
  )
  const names = (list: ReadonlyArray<string>) => json([...new Set(list)].map((name) => ({ name })))
  const park: RunStore["park"] = Effect.gen(function* () {
    const living = yield* database.read("list what instances know", (session) => session.rows(selectKnown, {}))
    const all = (column: "jobs" | "schedules") => living.flatMap((row) => JSON.parse(string(row[column])) as ReadonlyArray<string>)
    return yield* database.write("park runs", (session) =>
      session.affected(parkUnknown, { jobs: names(all("jobs")), schedules: names(all("schedules")) })
    )
  })

  const unparkKnown = statement(
    dialect.updateLimited({ table: runs, set: `state = ${State.ready}`, where: `state = ${State.parked} ${knownSql}`, limit: 1000 })
  )
  const unpark: RunStore["unpark"] = database.write("unpark runs", (session) => session.affected(unparkKnown, knownValues))

  // ---- retention

  const selectFinished = statement(`
    SELECT id FROM ${runs}
    WHERE state = :state AND finished_at < ${now} - ${dialect.big(":kept")}
    ORDER BY finished_at
    LIMIT ${retentionBatch}
    ${dialect.skipLocked}`)
  const idColumns = { id: "id" } satisfies { [column: string]: ColumnType }
  const deleteAttempts = statement(`DELETE FROM ${attempts} WHERE run_id IN (SELECT d.id FROM ${dialect.rows(":rows", idColumns)})`)
  const deleteRuns = statement(`DELETE FROM ${runs} WHERE id IN (SELECT d.id FROM ${dialect.rows(":rows", idColumns)})`)

  const deleteFinished: RunStore["deleteFinished"] = (state, kept) =>
    Effect.flatMap(
      database.read("look for runs to delete", (session) => session.rows(selectFinished, { state, kept })),
      (found) =>
        found.length === 0
          ? Effect.succeed(0)
          : database.transact("delete finished runs", (session) =>
              Effect.gen(function* () {
                const locked = yield* session.rows(selectFinished, { state, kept })
                if (locked.length === 0) return 0
                const rows = json(locked.map((row) => ({ id: string(row.id) })))
                yield* session.affected(deleteAttempts, { rows })
                yield* session.affected(deleteRuns, { rows })
                return locked.length
              })
            )
    )

  return {
    now: Effect.map(
      database.read("ask for the time", (session) => session.rows(selectNow, {})),
      (rows) => number(rows[0]!.now)
    ),
    insert,
    latestOfChain: (id) =>
      Effect.map(
        database.read("read a run", (session) => session.rows(selectLatest, { id })),
        (rows) => Option.map(Option.fromNullable(rows[0]), runState)
      ),
    cancelWaiting: changed("cancel a run", cancelIfWaiting),
    requestCancel: changed("cancel a run", requestIfRunning),
    claim,
    nextDue,
    settleOurs,
    settledBefore,
    releaseUnknown: (id, fence) =>
      Effect.map(
        database.write("release a run", (session) => session.affected(releaseIfUnknown, { id, fence, me })),
        (rows) => rows > 0
      ),
    sweep,
    park,
    unpark,
    deleteFinished
  }
}

const byPriority = (a: ClaimedRun, b: ClaimedRun) => a.priority - b.priority || a.runAt - b.runAt || (a.id < b.id ? -1 : 1)
