/**
 * The way to the database: connections, transactions and the meaning of errors. Statements go straight to a reserved connection,
 * past the client's name transforms, transformers and spans: the text is ours, and a template statement alone costs 20 us more.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
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
import * as connections from "./connections.js"
import { type Dialect, type Tables, tablesOf } from "./dialect.js"
import { fixed, type Row, type Session, type Use } from "./session.js"
import { compile, type Kept, type Statement } from "./statement.js"

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
  /** the same, where it may change many rows: `rows` at most */
  readonly writeMany: <A>(operation: string, rows: number, use: Use<A>, patience?: Patience) => Effect.Effect<A, StorageError>
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

/** A context without the transaction that its fiber may have open. */
export const withoutTransaction = <R>(context: Context.Context<R>): Context.Context<R> =>
  Context.omit(SqlClient.TransactionConnection)(context as Context.Context<R | SqlClient.TransactionConnection>) as Context.Context<R>

/** Runs an effect, and all fibers it forks, outside of any transaction its caller may have open. */
export const outsideTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.mapInputContext(effect, (context: Context.Context<R>) => withoutTransaction(context))

/** what is definite is tried again soon and often */
const soon = ([first, longest]: Dialect["pauses"]) =>
  Schedule.exponential(first, 1.5).pipe(Schedule.union(Schedule.spaced(longest)), Schedule.jittered)
/** what a lost connection left open, a few times, since writes are idempotent */
const later = Schedule.exponential("50 millis").pipe(Schedule.jittered)

/**
 * A fiber that nothing interrupts, of which Effect's own metrics need not know, and which has nothing of its caller's context. It gives
 * nobody else a turn between two statements of a driver that answers at once, and goes on within the callback that a driver answers with.
 */
const unattended = {
  fiberRefs: Runtime.defaultRuntime.pipe(
    Runtime.setFiberRef(FiberRef.currentMaxOpsBeforeYield, Number.MAX_SAFE_INTEGER),
    Runtime.setFiberRef(
      FiberRef.currentScheduler,
      Scheduler.make((task) => task())
    )
  ).fiberRefs,
  runtimeFlags: RuntimeFlags.disableAll(
    Runtime.defaultRuntimeFlags,
    RuntimeFlags.make(RuntimeFlags.Interruption, RuntimeFlags.RuntimeMetrics)
  )
}

const reasonOf = (error: unknown) => (error instanceof StorageError ? error.reason : undefined)

const isLost = (error: unknown) => reasonOf(error) === "ambiguous" || reasonOf(error) === "unavailable"

/** Says of an error what it means, and repeats what may be repeated. */
const retried = <A, E, E2>(
  { contentionMillis, triesWhenLost }: Patience,
  pauses: Dialect["pauses"],
  effect: Effect.Effect<A, E>,
  translated: (error: E) => E2
): Effect.Effect<A, E2> =>
  // a Schedule costs 10 us, and nearly always the first try is the last
  Effect.catchAll(effect, (first) => {
    const error = translated(first)
    if (reasonOf(error) !== "contention" && (triesWhenLost === 0 || !isLost(error))) return Effect.fail(error)
    return Effect.suspend(() => {
      // not Schedule.upTo: it asks the wall clock, which may jump
      const givenUpAt = performance.now() + contentionMillis
      const mayTry = (error: E2) => reasonOf(error) === "contention" && performance.now() < givenUpAt
      return Effect.retry(Effect.delay(Effect.mapError(effect, translated), pauses[0]), { schedule: soon(pauses), while: mayTry })
    }).pipe(Effect.retry({ schedule: Schedule.intersect(later, Schedule.recurs(triesWhenLost - 1)), while: isLost }))
  })

export const make = (client: SqlClient.SqlClient, dialect: Dialect, tablePrefix: string): Effect.Effect<Database, StorageError> =>
  Effect.gen(function* () {
    const sql = client.withoutTransforms()
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

    // the only connection there is may be held by a transaction that waits for this: that must end
    const { first, held, readsFreely, sessionOn, single } = yield* awaited(
      Effect.mapError(connections.make(sql, dialect), failed("connect", false)),
      patient.tryMillis,
      () => new StorageError({ operation: "connect", reason: "unavailable", cause: new Error("no connection came free in time") })
    )

    const onFirst = sessionOn(first)

    const { beforeWrite } = dialect
    /** what goes before a transaction, or a statement of its own */
    const preceded =
      <A, E>(use: Use<A, E>): Use<A, E | SqlError> =>
      (session) =>
        beforeWrite === null ? use(session) : Effect.zipRight(session.run(beforeWrite), use(session))

    // A statement is never interrupted: MySQL would carry it out all the same, PostgreSQL needs another connection to cancel it. It has
    // a fiber of its own, which holds its connection until it ends.
    const started = <A, E>(statement: Effect.Effect<A, E, Scope.Scope>): Fiber.RuntimeFiber<A, E> => {
      const scope = lazyScope.make()
      const runtime = Runtime.make({ ...unattended, context: Context.make(Scope.Scope, scope.scope) })
      const effect = thenAlways(statement, () => scope.close(Exit.void))
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
      retried(
        patience,
        dialect.pauses,
        Effect.suspend(() =>
          awaitedFiber(
            started(statement),
            // a hung socket must not hang a heartbeat
            dialect.answersAtOnce ? Number.POSITIVE_INFINITY : patience.tryMillis,
            () => new StorageError({ operation, reason: committing ? "ambiguous" : "unavailable", cause: new Error("no answer in time") })
          )
        ),
        translated(operation, committingError)
      )

    const read: Database["read"] = (operation, use, patience = patient) => tried(operation, false, false, patience, single(use, 1))

    const writeMany: Database["writeMany"] = (operation, rows, use, patience = patient) =>
      Effect.uninterruptible(tried(operation, true, true, patience, single(preceded(use), rows)))
    const write: Database["write"] = (operation, use, patience) => writeMany(operation, 1, use, patience)

    const transaction =
      <A, E>(operation: string, use: Use<A, E>) =>
      (session: Session) => {
        const before = translated(operation, false)
        return Effect.zipRight(
          Effect.mapError(preceded(({ run }) => run(dialect.begin))(session), before),
          connections.ended(session.run, Effect.mapError(use(session), before), failed(operation, true))
        )
      }

    // of its errors, only what COMMIT ends with is open, and says so itself
    const transact: Database["transact"] = (operation, use) =>
      Effect.uninterruptible(tried(operation, true, false, patient, held(transaction(operation, use))))

    // Effect 3's transaction tag does not say whose transaction it is. Connections of one client are of one class that the
    // client alone has (PostgreSQL, MySQL), or are one and the same object (SQLite).
    const isOurs = (connection: Connection) =>
      connection === first || (first.constructor !== Object && connection.constructor === first.constructor)

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
      writeMany,
      transact,
      within: (transaction) => (transaction === null ? { read, write } : joined(transaction)),
      transactionOf,
      aside: (operation, text) => Effect.mapError(onFirst.rows(fixed(text), {}), failed(operation, false)),
      failed
    }
  })
