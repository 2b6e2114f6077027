/** Reading and cancelling runs. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { StorageError } from "../../../JobsdError.js"
import type { RunId, RunState } from "../../../Run.js"
import { State } from "../../lifecycle.js"
import { number, runState, stateColumns } from "../runRow.js"
import type { Session } from "../session.js"
import type { Statement } from "../statement.js"
import type { Asker } from "./context.js"

/**
 * Each within the transaction that the caller has open, if any: SQLite has no other connection for it, and a pool whose connections
 * all wait for one more has none either.
 */
export interface Read {
  /** the database's clock */
  readonly now: (within?: Session | null) => Effect.Effect<number, StorageError>
  readonly latestOfChain: (id: RunId, within?: Session | null) => Effect.Effect<Option.Option<RunState>, StorageError>
  readonly cancelWaiting: (id: RunId, within?: Session | null) => Effect.Effect<boolean, StorageError>
  readonly requestCancel: (id: RunId, within?: Session | null) => Effect.Effect<boolean, StorageError>
}

export const make = ({ database }: Asker): Read => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { runs } = tables

  const selectNow = statement(`SELECT ${now} AS now`)

  // a run without a schedule is its own chain; the origin of a chain may have been deleted already
  const selectLatest = statement(`
    SELECT ${stateColumns.join(", ")} FROM ${runs}
    WHERE id = ${dialect.id(":id")} AND schedule IS NULL
    UNION ALL
    SELECT * FROM (
      SELECT ${stateColumns.join(", ")} FROM ${runs}
      WHERE schedule IS NOT NULL
        AND origin_id = COALESCE((SELECT origin_id FROM ${runs} WHERE id = ${dialect.id(":id")}), ${dialect.id(":id")})
      ORDER BY occurrence DESC
      LIMIT 1
    ) latest`)

  const cancelIfWaiting = statement(`
    UPDATE ${runs}
    SET state = ${State.cancelled}, finished_at = ${now}, unique_key = NULL
    WHERE id = :id AND state IN (${State.ready}, ${State.suspect}, ${State.parked})`)

  const requestIfRunning = statement(`
    UPDATE ${runs}
    SET cancel_at = COALESCE(cancel_at, ${now})
    WHERE id = :id AND state = ${State.running}`)

  const changed =
    (operation: string, change: Statement) =>
    (id: RunId, within: Session | null = null) =>
      Effect.map(
        database.within(within).write(operation, (session) => session.affected(change, { id })),
        (rows) => rows > 0
      )

  return {
    now: (within = null) =>
      Effect.map(
        database.within(within).read("ask for the time", (session) => session.rows(selectNow, {})),
        (rows) => number(rows[0]!.now)
      ),
    latestOfChain: (id, within = null) =>
      Effect.map(
        database.within(within).read("read a run", (session) => session.rows(selectLatest, { id })),
        (rows) => Option.map(Option.fromNullable(rows[0]), runState)
      ),
    cancelWaiting: changed("cancel a run", cancelIfWaiting),
    requestCancel: changed("cancel a run", requestIfRunning)
  }
}
