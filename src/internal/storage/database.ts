/**
 * The way to the database: connections, transactions and the meaning of errors. Statements go straight to a reserved connection,
 * past the client's name transforms, transformers and spans: the text is ours, and a template statement alone costs 20 us more.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Schedule from "effect/Schedule"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { StorageError } from "../../JobsdError.js"
import { awaited, awaitedFiber } from "../awaited.js"
import * as lazyScope from "../lazyScope.js"
import { thenAlways } from "../thenAlways.js"
import { type Dialect, type Tables, tablesOf } from "./dialect.js"
import { bind, compile, type Kept, type Statement, type Value } from "./statement.js"

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

/** How long an operation may take before it counts as lost, and how often it is tried. */
export interface Patience {
  /** for one try: the caller stops waiting after so many milliseconds, and what was sent may still happen */
  readonly tryMillis: number
  /** for tries that the database has definitely rolled back, such as a deadlock */
  readonly contentionMillis: number
  /** further tries when the answer was lost or the database could not be reached */
  readonly triesWhenLost: number
}

export const patient: Patience = { tryMillis: 10_000, contentionMillis: 10_000, triesWhenLost: 3 }
/** for writes that must not be repeated blindly: who asks looks at what has happened */
export const once: Patience = { ...patient, triesWhenLost: 0 }

/** for what comes again with the next heartbeat, and must not keep it waiting */
export const brief = (leaseMillis: number): Patience => ({
  tryMillis: leaseMillis / 10,
  contentionMillis: leaseMillis / 10,
  triesWhenLost: 0
})

/** What one operation asks of the database, on one connection. */
export type Use<A, E = SqlError> = (session: Session) => Effect.Effect<A, E>

export interface Database {
  /** what is said at a channel, where the client can listen; it fails or ends when it must be called again */
  readonly listen: ((channel: string) => Stream.Stream<string, SqlError>) | null
  readonly dialect: Dialect
  /** whether a statement that only reads waits for nobody who writes */
  readonly readsFreely: boolean
  readonly tables: Tables
  /** compiles a statement for this database; done once per statement */
  readonly statement: (source: string) => Statement
  /** the source of a statement that is kept planned, if this database does that */
  readonly kept: (kept: Kept) => string
  /** one or more statements on one connection without a transaction */
  readonly read: <A>(operation: string, use: Use<A>, patience?: Patience) => Effect.Effect<A, StorageError>
  /** one statement that commits by itself, or nothing: never interrupted, repeated verbatim as far as its patience goes */
  readonly write: <A>(operation: string, use: Use<A>, patience?: Patience) => Effect.Effect<A, StorageError>
  /** like `write`, all or nothing */
  readonly transact: <A, E>(operation: string, use: Use<A, E>) => Effect.Effect<A, StorageError | Exclude<E, SqlError>>
  /** in somebody's transaction, if there is one: there nothing is repeated, and it ends as its owner says */
  readonly within: (transaction: Session | null) => Pick<Database, "read" | "write">
  /** the transaction that a fiber with this context has open, if it is one of this database's client */
  readonly transactionOf: (context: Context.Context<never>) => Session | null
  /**
   * A statement without parameters on a driver's only connection, without asking for it: one that waits for no lock, and does not mind
   * whose transaction is open.
   */
  readonly aside: (operation: string, text: string) => Effect.Effect<ReadonlyArray<Row>, StorageError>
  readonly failed: (operation: string, committing: boolean) => (error: SqlError) => StorageError
}

const sessionsOf = ({ remembersFailure }: Dialect) => {
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

/** A context without the transaction that its fiber may have open. */
export const withoutTransaction = <R>(context: Context.Context<R>): Context.Context<R> =>
  Context.omit(SqlClient.TransactionConnection)(context as Context.Context<R | SqlClient.TransactionConnection>) as Context.Context<R>

/** Runs an effect, and all fibers it forks, outside of any transaction its caller may have open. */
export const outsideTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.mapInputContext(effect, (context: Context.Context<R>) => withoutTransaction(context))

const fixed = (text: string): Statement => ({ text, names: [] })

/** what is definite is tried again soon and often; what a lost connection left open, a few times, since writes are idempotent */
const soon = Schedule.exponential("5 millis", 1.5).pipe(Schedule.union(Schedule.spaced("25 millis")), Schedule.jittered)
const later = Schedule.exponential("50 millis").pipe(Schedule.jittered)

/**
 * A fiber that nothing interrupts, of which Effect's own metrics need not know, and which has nothing of its caller's context. It gives
 * nobody else a turn between two statements of a driver that answers at once.
 */
const unattended = {
  fiberRefs: Runtime.setFiberRef(Runtime.defaultRuntime, FiberRef.currentMaxOpsBeforeYield, Number.MAX_SAFE_INTEGER).fiberRefs,
  runtimeFlags: RuntimeFlags.disableAll(
    Runtime.defaultRuntimeFlags,
    RuntimeFlags.make(RuntimeFlags.Interruption, RuntimeFlags.RuntimeMetrics)
  )
}

const reasonOf = (error: unknown) => (error instanceof StorageError ? error.reason : undefined)

const isLost = (error: unknown) => reasonOf(error) === "ambiguous" || reasonOf(error) === "unavailable"

const retried =
  ({ contentionMillis, triesWhenLost }: Patience) =>
  <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    // a Schedule costs 10 us, and nearly always the first try is the last
    Effect.catchIf(
      effect,
      (error) => reasonOf(error) === "contention" || (triesWhenLost > 0 && isLost(error)),
      () =>
        Effect.suspend(() => {
          // not Schedule.upTo: it asks the wall clock, which may jump
          const givenUpAt = performance.now() + contentionMillis
          const mayTry = (error: E) => reasonOf(error) === "contention" && performance.now() < givenUpAt
          return Effect.retry(Effect.delay(effect, "5 millis"), { schedule: soon, while: mayTry })
        }).pipe(Effect.retry({ schedule: Schedule.intersect(later, Schedule.recurs(triesWhenLost - 1)), while: isLost }))
    )

export const make = (client: SqlClient.SqlClient, dialect: Dialect, tablePrefix: string): Effect.Effect<Database, StorageError> =>
  Effect.gen(function* () {
    const sql = client.withoutTransforms()
    const sessionOn = sessionsOf(dialect)
    const failed = (operation: string, committing: boolean) => (error: SqlError) => {
      const failure = dialect.failure(error)
      return new StorageError({
        operation,
        reason: failure === "connection" ? (committing ? "ambiguous" : "unavailable") : failure === "unique" ? "rejected" : failure,
        cause: error.cause ?? error
      })
    }
    const translated =
      (operation: string, committing: boolean) =>
      <E>(error: E): Exclude<E, SqlError> | StorageError =>
        error instanceof SqlError ? failed(operation, committing)(error) : (error as Exclude<E, SqlError>)

    // never interrupted: sql-pg loses the slot of the pool for good when a fiber waiting for it is
    const reserve: Effect.Effect<Connection, SqlError, Scope.Scope> = Effect.uninterruptible(sql.reserve)

    const { beforeWrite, blocking } = dialect
    // The only connection there is may be held by a transaction that waits for this: that must end.
    const [ours, waitMillis, readsFreely] = yield* awaited(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* reserve
          if (blocking === null) return [connection, 0, true] as const
          const asked = (text: string) => Effect.map(sessionOn(connection).run(text), ([row]) => Object.values(row ?? {})[0])
          const [question, answer] = blocking.readsFreely
          return [connection, Number(yield* asked(blocking.setting)), (yield* asked(question)) === answer] as const
        })
      ).pipe(Effect.mapError(failed("connect", false))),
      patient.tryMillis,
      () => new StorageError({ operation: "connect", reason: "unavailable", cause: new Error("no connection came free in time") })
    )

    /** what has begun is committed or rolled back, as `run` says it */
    const ended = <A, E, E2>(run: Run, effect: Effect.Effect<A, E>, refused: (error: SqlError) => E2): Effect.Effect<A, E | E2> => {
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

    /** what goes before a transaction, or a statement of its own */
    const preceded =
      <A, E>(use: Use<A, E>): Use<A, E | SqlError> =>
      (session) =>
        beforeWrite === null ? use(session) : Effect.zipRight(session.run(beforeWrite), use(session))

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

    const reserved = <A, E>(use: Use<A, E>) => Effect.flatMap(sql.reserve, (connection) => use(sessionOn(connection)))

    // To ask for the only connection and to say the setting twice, prepared anew each time, costs 40 us. BEGIN finds out by itself whether
    // somebody's transaction is open, and nobody comes between statements that answer at once and a COMMIT.
    const oursAside = sessionOn(ours)
    const atOnce = <A, E>(use: Use<A, E>): Effect.Effect<A, E | SqlError, Scope.Scope> => {
      if (blocking === null || !readsFreely) return reserved(unblocked(use))
      const [begin, look] = blocking.atOnce
      const run: Run = (text) => oursAside.rows(fixed(text), {})
      return Effect.matchEffect(run(begin), {
        onFailure: () => reserved(unblocked(use)),
        onSuccess: () => ended(run, Effect.zipRight(run(look), use(oursAside)), identity)
      })
    }

    // A statement is never interrupted: MySQL would carry it out all the same, PostgreSQL needs another connection to cancel it. It has
    // a fiber of its own, which holds its connection until it ends.
    const started = <A, E>(statement: Effect.Effect<A, E, Scope.Scope>): Fiber.RuntimeFiber<A, E> => {
      const held = lazyScope.make()
      const runtime = Runtime.make({ ...unattended, context: Context.make(Scope.Scope, held.scope) })
      const effect = thenAlways(statement, () => held.close(Exit.void))
      if (!dialect.answersAtOnce) return Runtime.runFork(runtime)(effect)
      // as Effect.runSync does: it has ended when this returns, unless it waits for the connection
      const scheduler = new Scheduler.SyncScheduler()
      const fiber = Runtime.runFork(runtime)(effect, { scheduler })
      scheduler.flush()
      return fiber
    }

    /** `committing`: whether it may have committed when nothing is heard of it; `committingError`: also when it fails */
    const tried = <A, E>(
      operation: string,
      committing: boolean,
      committingError: boolean,
      patience: Patience,
      statement: Effect.Effect<A, E, Scope.Scope>
    ) =>
      Effect.suspend(() =>
        awaitedFiber(
          started(statement),
          // a hung socket must not hang a heartbeat
          dialect.answersAtOnce ? Number.POSITIVE_INFINITY : patience.tryMillis,
          () => new StorageError({ operation, reason: committing ? "ambiguous" : "unavailable", cause: new Error("no answer in time") })
        )
      ).pipe(Effect.mapError(translated(operation, committingError)), retried(patience))

    const read: Database["read"] = (operation, use, patience = patient) => tried(operation, false, false, patience, atOnce(use))

    const write: Database["write"] = (operation, use, patience = patient) =>
      Effect.uninterruptible(tried(operation, true, true, patience, atOnce(preceded(use))))

    const transaction =
      <A, E>(operation: string, use: Use<A, E>) =>
      (session: Session) => {
        const before = translated(operation, false)
        return Effect.zipRight(
          Effect.mapError(preceded(({ run }) => run(dialect.begin))(session), before),
          ended(session.run, Effect.mapError(use(session), before), failed(operation, true))
        )
      }

    // of its errors, only what COMMIT ends with is open, and says so itself
    const transact: Database["transact"] = (operation, use) =>
      Effect.uninterruptible(tried(operation, true, false, patient, reserved(unblocked(transaction(operation, use)))))

    // Effect 3's transaction tag does not say whose transaction it is. Connections of one client are of one class that the
    // client alone has (PostgreSQL, MySQL), or are one and the same object (SQLite).
    const isOurs = (connection: Connection) =>
      connection === ours || (ours.constructor !== Object && connection.constructor === ours.constructor)

    const transactionOf: Database["transactionOf"] = (context) => {
      const open = Context.getOption(context, SqlClient.TransactionConnection)
      return Option.isSome(open) && isOurs(open.value[0]) ? sessionOn(open.value[0]) : null
    }

    const joined = (transaction: Session) => {
      const join: Database["read"] = (operation, use) => Effect.mapError(Effect.uninterruptible(use(transaction)), failed(operation, false))
      return { read: join, write: join }
    }

    return {
      // found without knowing the driver: PgClient has it
      listen: Predicate.hasProperty(client, "listen") ? (client.listen as NonNullable<Database["listen"]>) : null,
      dialect,
      readsFreely,
      tables: tablesOf(tablePrefix),
      statement: compile(dialect.placeholders),
      kept: (kept) => dialect.keep?.(kept).call ?? kept.source,
      read,
      write,
      transact,
      within: (transaction) => (transaction === null ? { read, write } : joined(transaction)),
      transactionOf,
      aside: (operation, text) => Effect.mapError(oursAside.rows(fixed(text), {}), failed(operation, false)),
      failed
    }
  })
