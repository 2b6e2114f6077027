/** Writing the outcome of attempts, each guarded by fence and token, and what follows from them. */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import { State } from "../../lifecycle.js"
import { brief } from "../database.js"
import type { ColumnType } from "../dialect.js"
import { attemptOf } from "../runRow.js"
import type { Session } from "../session.js"
import { assignments } from "../statement.js"
import { type Asker, attemptColumns, json, orAbsent, putBack, risen } from "./context.js"
import { among, type Recorded, recordedBefore, type Settled, settledColumns, settledRows } from "./settled.js"
import * as plain from "./successes.js"

export interface Settle {
  /**
   * Writes what is still ours; returns the claimed runs whose outcome is recorded, by this write or by an earlier one whose answer
   * was lost. A group may have two claims of one run, of which one has been taken back.
   */
  readonly settleOurs: (group: ReadonlyArray<Settled>) => Effect.Effect<Recorded, StorageError>
  /** gives back a run that we own but do not know, uncounted */
  readonly releaseUnknown: (id: RunId, fence: number) => Effect.Effect<boolean, StorageError>
}

/** How many earlier attempts of a run are kept. */
const attemptsKept = 20

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

const successorColumns = {
  predecessor: "id",
  id: "id",
  due: "big",
  success_count: "int",
  unique_key: "key"
} satisfies { [column: string]: ColumnType }

/** A statement of its own is worth its round trip for so many runs. */
const worthwhile = 8

export const make = ({ database, leaseMillis, me }: Asker): Settle => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { attempts, runs } = tables
  const settledBefore = recordedBefore(database)
  const settleSuccesses = plain.make({ database, me })

  const waits = `d.state IN (${State.ready}, ${State.suspect})`
  const goesOn = `(${waits} AND r.cancel_at IS NULL)`
  const held = `r.claim_token = d.token AND ${dialect.hidden("r.state")} = ${State.running}`
  const settleIfOurs = statement(
    dialect.updateFrom({
      table: runs,
      rows: dialect.rows(":rows", settledColumns),
      // a retry or a release of a run that is to be cancelled becomes its cancellation
      set: {
        state: `CASE WHEN ${waits} AND r.cancel_at IS NOT NULL THEN ${State.cancelled} ELSE d.state END`,
        first_due_at: `CASE WHEN d.delay IS NULL THEN r.first_due_at ELSE COALESCE(r.first_due_at, r.run_at) END`,
        run_at: `CASE WHEN d.delay IS NULL THEN r.run_at ELSE ${now} + d.delay END`,
        finished_at: `CASE WHEN ${goesOn} THEN NULL ELSE ${now} END`,
        unique_key: `CASE WHEN ${goesOn} THEN r.unique_key ELSE NULL END`,
        owner: "NULL",
        deadline_at: "NULL",
        errors: "d.errors",
        timeouts: "d.timeouts",
        success_count: "d.success_count",
        result: "d.result",
        // what is given back keeps what its last attempt said
        error: `CASE WHEN ${waits} THEN COALESCE(d.error, r.error) ELSE d.error END`,
        late: "d.late",
        started_at: "COALESCE(d.started_at, r.started_at)",
        started_by: `CASE WHEN d.started_at IS NULL THEN r.started_by ELSE ${dialect.id(":me")} END`
      },
      on: "r.id = d.run_id",
      where: `r.fence = d.fence AND ${held}`
    })
  )
  // `among` compares the fences
  const lockOurs = statement(`
    SELECT r.id, r.fence FROM ${dialect.rows(":rows", settledColumns)}
    ${dialect.lookUp(runs, "primary")} ON r.id = d.run_id
    WHERE ${held}
    ${dialect.forUpdate}`)

  const insertSuccessors = statement(`
    INSERT INTO ${runs} (id, origin_id, occurrence, state, run_at, created_at, unique_key, success_count, fence, errors, timeouts,
      crashes, late, ${inherited.join(", ")})
    SELECT d.id, r.origin_id, r.occurrence + 1, ${State.ready}, d.due, ${now}, d.unique_key, d.success_count, 0, 0, 0,
      0, 0, ${inherited.map((column) => `r.${column}`).join(", ")}
    FROM ${dialect.rows(":rows", successorColumns)}
    ${dialect.lookUp(runs, "primary")} ON r.id = d.predecessor
    WHERE r.cancel_at IS NULL`)

  const insertAttempts = statement(`
    INSERT INTO ${attempts} (run_id, fence, attempt, started_at, ended_at, instance, outcome, error)
    SELECT d.run_id, d.fence, d.attempt, d.started_at, ${now}, ${dialect.id(":me")}, d.outcome, d.error
    FROM ${dialect.rows(":rows", attemptColumns)}
    WHERE 1 = 1 ${dialect.orKeep(attempts, "run_id")}`)

  const forgetAttempts = statement(`DELETE FROM ${attempts} WHERE run_id = :id AND attempt <= :attempt`)

  const writeOurs = (session: Session, group: ReadonlyArray<Settled>): Effect.Effect<Recorded, SqlError> => {
    const rows = settledRows(group)
    return dialect.returning
      ? Effect.map(session.rows(settleIfOurs, { rows, me }), among(group))
      : Effect.flatMap(Effect.map(session.rows(lockOurs, { rows }), among(group)), (ours) =>
          Effect.as(session.affected(settleIfOurs, { rows, me }), ours)
        )
  }

  const settleAny = (group: ReadonlyArray<Settled>): Effect.Effect<Recorded, StorageError> => {
    const simple = group.every(({ settlement }) => settlement.successor === null && settlement.keepAttempt === null)
    if (simple && dialect.returning) {
      return database.writeMany("settle runs", group.length, (session) => writeOurs(session, group))
    }
    return database.transact("settle runs", (session) =>
      Effect.gen(function* () {
        const ours = yield* writeOurs(session, group)
        const mine = group.filter(({ run }) => ours.has(run))
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

  const settleOurs: Settle["settleOurs"] = (group) => {
    const { others, successes } = plain.sorted(group)
    const writes: Array<Effect.Effect<Recorded, StorageError>> = []
    for (const [fence, alike] of successes) {
      if (alike.length < worthwhile && group.length > alike.length) others.push(...alike)
      else writes.push(settleSuccesses(fence, alike))
    }
    if (others.length > 0) {
      writes.push(
        Effect.flatMap(settleAny(others), (ours) => {
          const missing = others.filter(({ run }) => !ours.has(run))
          return missing.length === 0 ? Effect.succeed(ours) : Effect.map(settledBefore(missing), (before) => new Set([...ours, ...before]))
        })
      )
    }
    return writes.length === 1 ? writes[0]! : Effect.map(Effect.all(writes), (sets) => new Set(sets.flatMap((set) => [...set])))
  }

  const releaseIfUnknown = statement(`
    UPDATE ${runs}
    SET ${assignments({ ...putBack(now, "", "crashes > 0"), fence: risen("fence") })}
    WHERE id = :id AND fence = :fence AND owner = :me AND state = ${State.running}`)

  return {
    settleOurs,
    releaseUnknown: (id, fence) =>
      Effect.map(
        // the next heartbeat is as good as another try
        database.write("release a run", (session) => session.affected(releaseIfUnknown, { id, fence, me }), brief(leaseMillis)),
        (rows) => rows > 0
      )
  }
}
