/**
 * A SqlClient that sees every statement before and after it runs, and lets a fault strike at a chosen one. The library needs no hooks
 * for it: each statement it sends is a trigger point. Works with every database; what it cannot do, the proxy can.
 */
import { SqlClient, SqlError } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { Context, Effect } from "effect"
import { sqlite } from "../../../src/internal/storage/dialect/sqlite.js"
import { type Kind, kindOf } from "./statements.js"

/** What happens at a trigger point. */
export type Act =
  /** the connection is lost: before, the statement did not run; after, it ran and its answer did not arrive */
  | { readonly do: "lose" }
  /** the process dies */
  | { readonly do: "kill" }
  | { readonly do: "hang" }
  | { readonly do: "delay"; readonly millis: number }
  /** any other error of the driver, without the statement having run; the connection stays */
  | { readonly do: "fail"; readonly cause: unknown }

export interface Fault {
  readonly at: Kind
  readonly when: "before" | "after"
  /** which of them, from 1; all of them if nothing is said */
  readonly nth?: number
  /** all that come after it, too */
  readonly onwards?: true
  readonly act: Act
}

export interface FaultyClient {
  readonly sql: SqlClient.SqlClient
  /** lets a fault strike from now on; `nth` counts from now */
  readonly arm: (fault: Fault) => void
  readonly disarm: () => void
  /** how many faults have struck */
  readonly struck: () => number
  /** the statements seen, in their order */
  readonly seen: ReadonlyArray<{ readonly kind: Kind; readonly text: string }>
  /** the errors that the database, and not this client, has answered with */
  readonly errors: ReadonlyArray<{ readonly kind: Kind; readonly cause: unknown }>
}

/** An error as the driver reports it when a connection is lost. SQLite has none: there, a failing disk comes closest. */
const lostBy: { readonly [dialect: string]: () => Error } = {
  pg: () => new Error("Connection terminated unexpectedly"),
  mysql: () => Object.assign(new Error("Connection lost: The server closed the connection."), { code: "PROTOCOL_CONNECTION_LOST" }),
  sqlite: () => Object.assign(new Error("disk I/O error"), { code: "SQLITE_IOERR" })
}

export const make = (client: SqlClient.SqlClient): FaultyClient => {
  const dialect = client.onDialectOrElse({ pg: () => "pg", mysql: () => "mysql", sqlite: () => "sqlite", orElse: () => "pg" })
  const lost = () => new SqlError.SqlError({ cause: lostBy[dialect]!(), message: "Failed to execute statement" })
  const armed: Array<Fault & { left: number | null }> = []
  const seen: Array<{ readonly kind: Kind; readonly text: string }> = []
  const errors: Array<{ readonly kind: Kind; readonly cause: unknown }> = []
  let struck = 0

  const next = (kind: Kind, when: Fault["when"]): Act | null => {
    const due = armed.filter(
      (fault) =>
        fault.at === kind && fault.when === when && (fault.left === null || --fault.left === 0 || (fault.onwards && fault.left < 0))
    )
    if (due.length > 0) struck++
    return due[0]?.act ?? null
  }

  /** one connection for as long as it is reserved: when it is lost, everything sent on it afterwards fails too */
  interface Reservation {
    lost: boolean
    inTransaction: boolean
    /** SQLite: within the BEGIN and COMMIT around a statement that stands alone; what strikes once it has committed */
    alone: { after: Act | null } | null
  }

  const said = (text: string, connection: Connection) => Effect.suspend(() => connection.executeUnprepared(text, [], undefined))

  const losing = (connection: Connection, reservation: Reservation) =>
    Effect.suspend(() => {
      reservation.lost = true
      // what a server does when it finds that its client has gone
      const isOpen = reservation.inTransaction || reservation.alone !== null
      reservation.alone = null
      const rollback = isOpen ? Effect.ignore(said("ROLLBACK", connection)) : Effect.void
      return Effect.zipRight(rollback, Effect.fail(lost()))
    })

  const strike = (act: Act | null, connection: Connection, reservation: Reservation): Effect.Effect<void, SqlError.SqlError> => {
    switch (act?.do) {
      case undefined:
        return Effect.void
      case "lose":
        return losing(connection, reservation)
      case "kill":
        return Effect.zipRight(
          Effect.sync(() => process.kill(process.pid, "SIGKILL")),
          Effect.never
        )
      case "hang":
        return Effect.never
      case "delay":
        return Effect.sleep(act.millis)
      case "fail":
        return Effect.fail(new SqlError.SqlError({ cause: act.cause, message: "Failed to execute statement" }))
    }
  }

  // A statement that stands alone has no effect before its COMMIT, and the driver, which answers at once, leaves no time within: it is
  // one point, as it is on other databases. What strikes after it does so after the COMMIT, and what takes time before it before the BEGIN.
  const [begin, look] = sqlite.blocking!.atOnce
  const beginsAlone = (text: string) => dialect === "sqlite" && text.trimEnd() === begin
  const aroundAlone = <A>(
    text: string,
    connection: Connection,
    reservation: Reservation,
    run: () => Effect.Effect<A, SqlError.SqlError>
  ) => {
    if (text.startsWith(look)) return run()
    const after = text.startsWith("COMMIT") ? (reservation.alone?.after ?? null) : null
    return Effect.tap(run(), () => {
      reservation.alone = null
      return strike(after, connection, reservation)
    })
  }
  const strikeBefore = (act: Act | null, connection: Connection, reservation: Reservation): Effect.Effect<void, SqlError.SqlError> => {
    const { alone } = reservation
    if (alone === null || (act?.do !== "delay" && act?.do !== "hang")) return strike(act, connection, reservation)
    return Effect.gen(function* () {
      reservation.alone = null
      yield* said("ROLLBACK", connection)
      yield* strike(act, connection, reservation)
      yield* said(begin, connection)
      yield* said(look, connection)
      reservation.alone = alone
    })
  }

  const watched = <A>(
    text: string,
    connection: Connection,
    reservation: Reservation,
    run: () => Effect.Effect<A, SqlError.SqlError>
  ): Effect.Effect<A, SqlError.SqlError> =>
    Effect.suspend(() => {
      if (reservation.lost) return Effect.fail(lost())
      if (beginsAlone(text)) {
        return Effect.tap(run(), () => {
          reservation.alone = { after: null }
        })
      }
      const { alone } = reservation
      if (alone !== null && ["COMMIT", "ROLLBACK", look].includes(text.trimEnd())) return aroundAlone(text, connection, reservation, run)
      const kind = kindOf(text)
      seen.push({ kind, text })
      return strikeBefore(next(kind, "before"), connection, reservation).pipe(
        // suspended: the SQLite driver prepares a text when the effect is made
        Effect.zipRight(
          Effect.tapError(Effect.suspend(run), ({ cause }) =>
            Effect.sync(() => {
              errors.push({ kind, cause })
            })
          )
        ),
        Effect.tap(() => {
          if (alone !== null) {
            alone.after ??= next(kind, "after")
            return Effect.void
          }
          if (kind === "begin") reservation.inTransaction = true
          if (kind === "commit" || kind === "rollback") reservation.inTransaction = false
          return strike(next(kind, "after"), connection, reservation)
        })
      )
    })

  const watchedMethods = ["execute", "executeRaw", "executeValues", "executeUnprepared"] as const
  // a Proxy, so that a connection keeps its class; the same one for the same connection, since SQLite's client has only one
  const wrappers = new WeakMap<Connection, { readonly wrapped: Connection; readonly reservation: Reservation }>()
  const wrap = (connection: Connection) => {
    const known = wrappers.get(connection)
    if (known !== undefined) return known
    const reservation: Reservation = { lost: false, inTransaction: false, alone: null }
    const wrapped = new Proxy(connection, {
      get: (target, name) =>
        watchedMethods.includes(name as (typeof watchedMethods)[number])
          ? (text: string, ...rest: ReadonlyArray<any>) =>
              watched(text, target, reservation, () => (target as any)[name](text, ...rest) as Effect.Effect<any, SqlError.SqlError>)
          : (target as any)[name]
    })
    wrappers.set(connection, { wrapped, reservation })
    return { wrapped, reservation }
  }

  const reserved = (connection: Connection) => {
    const { reservation, wrapped } = wrap(connection)
    reservation.lost = false
    return wrapped
  }

  const wrapClient = (client: SqlClient.SqlClient): SqlClient.SqlClient => {
    const wrapped: SqlClient.SqlClient = new Proxy(client, {
      get: (target, name) => {
        switch (name) {
          case "reserve":
            return Effect.map(target.reserve, reserved)
          case "withoutTransforms":
            return () => wrapClient(target.withoutTransforms())
          case "safe":
            return wrapped
          case "withTransaction":
            return (effect: Effect.Effect<unknown, unknown, unknown>) =>
              target.withTransaction(
                Effect.mapInputContext(effect, (context: Context.Context<unknown>) => {
                  const [connection, depth] = Context.unsafeGet(
                    context as Context.Context<SqlClient.TransactionConnection>,
                    SqlClient.TransactionConnection
                  )
                  return depth === 0 ? Context.add(context, SqlClient.TransactionConnection, [wrap(connection).wrapped, depth]) : context
                })
              )
          default:
            return Reflect.get(target, name)
        }
      }
    })
    return wrapped
  }

  return {
    sql: wrapClient(client),
    arm: (fault) => armed.push({ ...fault, left: fault.nth ?? null }),
    disarm: () => armed.splice(0),
    struck: () => struck,
    seen,
    errors
  }
}
