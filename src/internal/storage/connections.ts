/** How a statement comes to a connection, and SQLite's two ways to a lock without stopping the event loop. */
import type { SqlClient } from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import type { Scope } from "effect/Scope"
import { thenAlways } from "../thenAlways.js"
import type { Dialect } from "./dialect.js"
import { fixed, type Run, type Session, sessionsOf, type Use } from "./session.js"

export interface Connections {
  /** the connection that was asked for first: SQLite has no other */
  readonly first: Connection
  readonly sessionOn: (connection: Connection) => Session
  /** whether a statement that only reads waits for nobody who writes */
  readonly readsFreely: boolean
  /** a use that has the connection to itself: it begins a transaction and ends it, or changes many rows */
  readonly held: <A, E>(use: Use<A, E>) => Effect.Effect<A, E | SqlError, Scope>
  /** a use of one statement that commits by itself and changes at most so many rows, or of some that only read */
  readonly single: <A, E>(use: Use<A, E>, rows: number) => Effect.Effect<A, E | SqlError, Scope>
}

/**
 * Between a BEGIN and a COMMIT, SQLite keeps a copy of each page that a statement changes, to be able to undo it alone: beyond 64 KiB in
 * a file that it makes and removes for each statement. That takes 90 us of 350 for 64 rows, and 170 of 1,070 for 256; for 16 it is as
 * much as asking for the connection and setting it twice.
 */
const manyRows = 64

/** What has begun is committed or rolled back, as `run` says it. */
export const ended = <A, E, E2>(run: Run, effect: Effect.Effect<A, E>, refused: (error: SqlError) => E2): Effect.Effect<A, E | E2> => {
  // a server that has already rolled back, or is gone, answers with an error that says nothing new
  const undone = <E>(cause: Cause.Cause<E>) => Effect.zipRight(Effect.ignore(run("ROLLBACK")), Effect.failCause(cause))
  return Effect.matchCauseEffect(effect, {
    onFailure: undone,
    onSuccess: (value) =>
      Effect.matchCauseEffect(run("COMMIT"), {
        // SQLite's transaction is still open when its COMMIT was refused
        onFailure: (cause) => undone(Cause.map(cause, refused)),
        onSuccess: () => Effect.succeed(value)
      })
  })
}

/** Asks for a first connection, and what it is set to. */
export const make = (sql: SqlClient, dialect: Dialect): Effect.Effect<Connections, SqlError> =>
  Effect.gen(function* () {
    const { blocking } = dialect
    const sessionOn = sessionsOf(dialect)

    const [first, waitMillis, readsFreely] = yield* Effect.scoped(
      Effect.gen(function* () {
        // never interrupted: sql-pg loses the slot of the pool for good when a fiber waiting for it is
        const connection = yield* Effect.uninterruptible(sql.reserve)
        if (blocking === null) return [connection, 0, true] as const
        const asked = (text: string) => Effect.map(sessionOn(connection).run(text), ([row]) => Object.values(row ?? {})[0])
        const [question, answer] = blocking.readsFreely
        return [connection, Number(yield* asked(blocking.setting)), (yield* asked(question)) === answer] as const
      })
    )

    // better-sqlite3 waits for a lock synchronously, 5 s by default, and stops the event loop meanwhile: fail at once, and try again from
    // here. The setting is the connection's, which is the user's too, so it is put back.
    const unblocked =
      <A, E>(use: Use<A, E>): Use<A, E | SqlError> =>
      (session) =>
        blocking === null || waitMillis === 0
          ? use(session)
          : Effect.zipRight(
              session.run(`${blocking.setting} = 0`),
              thenAlways(use(session), () => Effect.ignore(session.run(`${blocking.setting} = ${waitMillis}`)))
            )

    const held: Connections["held"] = (use) => Effect.flatMap(sql.reserve, (connection) => unblocked(use)(sessionOn(connection)))

    // To ask for the only connection and to say the setting twice, prepared anew each time, costs 40 us. BEGIN finds out by itself whether
    // somebody's transaction is open, and nobody comes between statements that answer at once and a COMMIT.
    const session = sessionOn(first)
    const single: Connections["single"] = (use, rows) => {
      if (blocking === null || !readsFreely || rows >= manyRows) return held(use)
      const [begin, look] = blocking.atOnce
      const run: Run = (text) => session.rows(fixed(text), {})
      return Effect.matchEffect(run(begin), {
        onFailure: () => held(use),
        onSuccess: () => ended(run, Effect.zipRight(run(look), use(session)), identity)
      })
    }

    return { first, sessionOn, readsFreely, held, single }
  })
