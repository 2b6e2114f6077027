/** Statements on a connection: the text is ours, and what a driver answers has a hundred forms. */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type { Dialect } from "./dialect.js"
import { bind, type Statement, type Value } from "./statement.js"

export type Row = { readonly [column: string]: unknown }
export type Values = { readonly [name: string]: Value }

/** Statements on one connection. Errors are the driver's: whoever opened the session says what was being done. */
export interface Session {
  readonly rows: (statement: Statement, values: Values) => Effect.Effect<ReadonlyArray<Row>, SqlError>
  readonly affected: (statement: Statement, values: Values) => Effect.Effect<number, SqlError>
  /** text without parameters, never prepared */
  readonly run: Run
}

export type Run = (text: string) => Effect.Effect<ReadonlyArray<Row>, SqlError>

/** What one operation asks of the database, on one connection. */
export type Use<A, E = SqlError> = (session: Session) => Effect.Effect<A, E>

/** a text without parameters, as a statement that a driver may keep prepared */
export const fixed = (text: string): Statement => ({ text, names: [] })

/** The session on a connection. */
export const sessionsOf = ({ remembersFailure }: Dialect) => {
  // trailing blanks make another text, as far as a driver's memory goes
  const blanks = new Map<string, string>()
  const remembered = <A>(text: string, execute: (text: string) => Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.tapError(execute(text + (blanks.get(text) ?? "")), (error) =>
      Effect.sync(() => {
        if (remembersFailure!(error)) blanks.set(text, `${(blanks.get(text) ?? "").slice(0, 100)} `)
      })
    )
  const texted: typeof remembered = remembersFailure === null ? (text, execute) => execute(text) : remembered
  return (connection: Connection): Session => ({
    rows: (statement, values) => texted(statement.text, (text) => connection.execute(text, bind(statement, values), undefined)),
    affected: (statement, values) =>
      texted(statement.text, (text) => Effect.map(connection.executeRaw(text, bind(statement, values)), affectedRows)),
    // suspended: the SQLite driver prepares when the effect is made, and PRAGMA busy_timeout acts when it is prepared
    run: (text) => Effect.suspend(() => connection.executeUnprepared(text, [], undefined))
  })
}

const affectedRows = (raw: unknown): number => {
  // SQLite's answer to a statement with RETURNING
  if (Array.isArray(raw)) return raw.length
  const answer = raw as { readonly rowCount?: number | null; readonly affectedRows?: number; readonly changes?: number }
  return answer.rowCount ?? answer.affectedRows ?? answer.changes ?? 0
}
