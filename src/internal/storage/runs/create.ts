/** Creating runs. */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { InstanceId } from "../../../Instance.js"
import { RetryTransaction, StorageError } from "../../../JobsdError.js"
import type { RunId } from "../../../Run.js"
import { State } from "../../lifecycle.js"
import type { Session } from "../database.js"
import type { ColumnType } from "../dialect.js"
import { string } from "../runRow.js"
import { type Asker, json, orAbsent } from "./context.js"

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

export interface Create {
  /** creates a run, in the caller's transaction if it is ours; the id of the run that holds its unique key if there is one */
  readonly insert: (run: NewRun) => Effect.Effect<RunId, StorageError | RetryTransaction>
}

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

export const make = ({ database }: Asker): Create => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { runs } = tables

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

  const insert: Create["insert"] = (run) =>
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

  return { insert }
}
