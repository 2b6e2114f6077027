/** What tests say about a world of instances on one database: start some, create runs, wait for a state. */
import { inspect } from "node:util"
import { SqlClient } from "@effect/sql"
import { Context, Duration, Effect, ExecutionStrategy, Exit, HashMap, Layer, Logger, Scope } from "effect"
import { Job, Jobsd, type Run } from "jobsd"
import { clientLayer } from "./client.js"
import { Target } from "./databases.js"

let prefixes = 0

/** Tables of its own for each test. */
export const freshPrefix = (): string => `t${prefixes++}`

/** An instance in the scope of the test, and the means to stop it earlier. */
export interface Started extends Jobsd.Jobsd.Service {
  readonly stop: Effect.Effect<void>
}

type Options<Jobs extends ReadonlyArray<Job.Job.Any>> = Parameters<typeof Jobsd.layer<Jobs>>[0]

/** Fast loops: a test should not wait for a poll. */
const quick = { pollInterval: "200 millis", timeoutCheck: "200 millis", shutdownTimeout: "2 seconds" } as const

/** What was logged by the instances of a test, instead of on the screen. */
export interface LogEntry {
  readonly level: string
  readonly message: string
  readonly annotations: { readonly [key: string]: unknown }
}

/** The instances of one test, on tables of their own. */
export const makeWorld = Effect.gen(function* () {
  const prefix = freshPrefix()
  const logs: Array<LogEntry> = []
  const collecting = Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ annotations, cause, logLevel, message }) => {
      const texts = (Array.isArray(message) ? message : [message]).map((part) => (typeof part === "string" ? part : JSON.stringify(part)))
      logs.push({
        level: logLevel.label,
        message: [...texts, ...(cause._tag === "Empty" ? [] : [String(cause)])].join(" "),
        annotations: Object.fromEntries(HashMap.toEntries(annotations))
      })
    })
  )
  const sql = yield* SqlClient.SqlClient
  const outer = yield* Effect.scope

  const on = (sql: SqlClient.SqlClient) => {
    const build = <E>(layer: Layer.Layer<Jobsd.Jobsd, E, SqlClient.SqlClient>): Effect.Effect<Started, E> =>
      Effect.gen(function* () {
        const scope = yield* Scope.fork(outer, ExecutionStrategy.sequential)
        const context = yield* Layer.buildWithScope(
          Layer.provide(layer, Layer.merge(Layer.succeed(SqlClient.SqlClient, sql), collecting)),
          scope
        )
        return { ...Context.get(context, Jobsd.Jobsd), stop: Scope.close(scope, Exit.void) }
      })
    return {
      sql,
      /** starts an instance with these handlers */
      start: <const Jobs extends ReadonlyArray<Job.Job.Any>, E, R extends SqlClient.SqlClient>(
        handlers: Layer.Layer<Job.Job.HandlerOf<Jobs[number]>, E, R>,
        options: Options<Jobs>
      ) =>
        build(
          Layer.provide(Jobsd.layer({ tablePrefix: prefix, ...quick, ...options }), handlers) as Layer.Layer<
            Jobsd.Jobsd,
            E,
            SqlClient.SqlClient
          >
        ),
      /** a client that handles nothing */
      client: (settings: Jobsd.Settings = {}) => build(Jobsd.layerClient({ tablePrefix: prefix, ...settings }))
    }
  }

  return {
    prefix,
    logs,
    ...on(sql),
    /** the same, over another client of the database */
    on,
    /**
     * The same, over connections that it shares with nobody, like another program's. What is to race needs them: instances on one
     * client wait for each other in its pool, and on SQLite for its only connection.
     */
    apart: Effect.flatMap(Target, ({ url }) =>
      Effect.map(Layer.buildWithScope(clientLayer(url, 2), outer), (context) => on(Context.get(context, SqlClient.SqlClient)))
    ),
    /** makes the tables, without an instance */
    migrate: Effect.provideService(Jobsd.migrate({ tablePrefix: prefix }), SqlClient.SqlClient, sql),
    /** rows of a table, named without its prefix */
    rows: <A extends object = Record<string, unknown>>(
      table: "runs" | "attempts" | "instances" | "runs_view" | "instances_view",
      rest = ""
    ) => Effect.orDie(sql.unsafe<A>(`SELECT * FROM ${prefix}_${table} ${rest}`)),
    /** as if an instance had claimed all runs and was never heard of again */
    orphan: Effect.gen(function* () {
      const ghost = "0192f0c1-7a3e-7cc0-8a64-3f6d8a3d5b10"
      yield* sql.unsafe(
        `INSERT INTO ${prefix}_instances (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
         VALUES ('${ghost}', 'gone', 1, 0, '["Orphan"]', '[]', '{}', 1, 1, 1, '{}')`
      )
      yield* sql.unsafe(
        `UPDATE ${prefix}_runs SET state = 1, fence = 1, owner = '${ghost}', claim_token = '${ghost}', claimed_at = 1, deadline_at = 9000000000000`
      )
    }).pipe(Effect.orDie),
    /** any statement; `@` stands for the prefix */
    unsafe: (text: string) => Effect.orDie(sql.unsafe<Record<string, unknown>>(text.replaceAll("@", prefix)))
  }
})

export type World = Effect.Effect.Success<typeof makeWorld>

/** Repeats a look until it shows what is expected; fails with what it showed last. */
export const eventually = <A, E, R>(
  look: Effect.Effect<A, E, R>,
  expected: (seen: A) => boolean,
  within: Duration.DurationInput = "10 seconds"
): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const givenUpAt = Date.now() + Duration.toMillis(within)
    for (;;) {
      const seen = yield* look
      if (expected(seen)) return seen
      if (Date.now() > givenUpAt) {
        throw new Error(`not within ${Duration.format(Duration.decode(within))}; seen last: ${inspect(seen, { depth: 6 })}`)
      }
      yield* Effect.sleep("10 millis")
    }
  })

/** Waits until a run is in one of these states. */
export const reaches = (jobsd: Pick<Jobsd.Jobsd.Service, "getRunState">, id: Run.RunId, ...statuses: ReadonlyArray<Run.RunStatus>) =>
  eventually(jobsd.getRunState(id), (state) => statuses.includes(state.status))

/** Waits until an instance has started a handler: a run is running in the table a moment earlier. */
export const hasStarted = (jobsd: Pick<Jobsd.Jobsd.Service, "instance">) =>
  eventually(Effect.orDie(jobsd.instance), ({ counts }) => counts.started > 0)

/** A job whose handler runs this effect, and how often it was called. */
export const counted = <Name extends string>(name: Name, work: Effect.Effect<unknown, unknown> = Effect.void) => {
  const job = Job.make(name)
  const calls: Array<Run.RunInfo> = []
  return {
    job,
    calls,
    live: job.toLayer((_, run) =>
      Effect.zipRight(
        Effect.sync(() => calls.push(run)),
        work
      )
    )
  }
}
