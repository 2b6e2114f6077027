/**
 * The tables, made in numbered steps. Each step can be repeated, and is recorded after it was done, so that a crash in between
 * only means doing it again. One lock per table prefix lets any number of instances start at once.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { MigrationError, SchemaVersionError, StorageError } from "../../JobsdError.js"
import { State } from "../lifecycle.js"
import type { Database } from "./database.js"
import type { ColumnType, Dialect, Tables } from "./dialect.js"
import { number } from "./runRow.js"
import { claimsKept } from "./runs/claim.js"
import { insertsKept } from "./runs/inserts.js"
import type { Session } from "./session.js"

type Columns = { readonly [column: string]: readonly [ColumnType, "NOT NULL" | "NULL"] }
interface Index {
  readonly name: string
  readonly columns: string
  readonly unique?: boolean
  /** a partial index where the database has them */
  readonly where?: string
  /** the columns where it has not; null: another index serves */
  readonly withoutWhere?: string | null
}

const table = (
  { ddl, types }: Dialect,
  name: string,
  columns: Columns,
  primaryKey: string,
  wanted: ReadonlyArray<Index> = []
): ReadonlyArray<string> => {
  const indexes = ddl.inlineIndexes
    ? wanted.flatMap(({ columns, withoutWhere = columns, ...index }) =>
        withoutWhere === null ? [] : [{ ...index, columns: withoutWhere }]
      )
    : wanted
  const index = (prefix: string, { columns, name: suffix, unique, where }: Index, on: string) =>
    `${prefix}${unique ? "UNIQUE " : ""}INDEX ${on.replace("%", `${name}_${suffix}`)} (${columns})` +
    (where !== undefined && !ddl.inlineIndexes ? ` WHERE ${where}` : "")
  const lines = [
    ...Object.entries(columns).map(([column, [type, nullable]]) => `${column} ${types[type]} ${nullable}`),
    `PRIMARY KEY (${primaryKey})`,
    ...(ddl.inlineIndexes ? indexes.map((_) => index("", _, "%")) : [])
  ]
  return [
    `CREATE TABLE IF NOT EXISTS ${name} (\n  ${lines.join(",\n  ")}\n) ${ddl.tableOptions}`,
    ...(ddl.inlineIndexes ? [] : indexes.map((_) => index("CREATE ", _, `IF NOT EXISTS % ON ${name}`)))
  ]
}

const runs: Columns = {
  id: ["id", "NOT NULL"],
  origin_id: ["id", "NOT NULL"],
  occurrence: ["int", "NOT NULL"],
  job: ["name", "NOT NULL"],
  queue: ["name", "NOT NULL"],
  schedule: ["name", "NULL"],
  name: ["text", "NULL"],
  unique_key: ["key", "NULL"],
  state: ["small", "NOT NULL"],
  priority: ["small", "NOT NULL"],
  run_at: ["big", "NOT NULL"],
  // when it was due at first, if another attempt has moved that: a schedule goes on from there
  first_due_at: ["big", "NULL"],
  created_at: ["big", "NOT NULL"],
  created_by: ["id", "NOT NULL"],
  claimed_at: ["big", "NULL"],
  started_at: ["big", "NULL"],
  started_by: ["id", "NULL"],
  deadline_at: ["big", "NULL"],
  finished_at: ["big", "NULL"],
  cancel_at: ["big", "NULL"],
  fence: ["big", "NOT NULL"],
  owner: ["id", "NULL"],
  claim_token: ["id", "NULL"],
  errors: ["int", "NOT NULL"],
  timeouts: ["int", "NOT NULL"],
  crashes: ["int", "NOT NULL"],
  max_errors: ["int", "NULL"],
  max_timeouts: ["int", "NULL"],
  max_crashes: ["int", "NULL"],
  timeout_ms: ["big", "NULL"],
  success_count: ["int", "NOT NULL"],
  success_limit: ["int", "NULL"],
  backoff: ["text", "NULL"],
  payload: ["text", "NOT NULL"],
  payload_bytes: ["int", "NOT NULL"],
  result: ["text", "NULL"],
  error: ["text", "NULL"],
  late: ["small", "NOT NULL"],
  traceparent: ["text", "NULL"]
}

const attempts: Columns = {
  run_id: ["id", "NOT NULL"],
  fence: ["big", "NOT NULL"],
  attempt: ["int", "NOT NULL"],
  started_at: ["big", "NULL"],
  ended_at: ["big", "NOT NULL"],
  instance: ["id", "NULL"],
  outcome: ["name", "NOT NULL"],
  error: ["text", "NULL"]
}

const instances: Columns = {
  id: ["id", "NOT NULL"],
  host: ["name", "NOT NULL"],
  pid: ["int", "NOT NULL"],
  state: ["small", "NOT NULL"],
  jobs: ["text", "NOT NULL"],
  schedules: ["text", "NOT NULL"],
  queues: ["text", "NOT NULL"],
  lease_until: ["big", "NOT NULL"],
  started_at: ["big", "NOT NULL"],
  seen_at: ["big", "NOT NULL"],
  stopped_at: ["big", "NULL"],
  counts: ["text", "NOT NULL"]
}

const stateNames = ["ready", "running", "succeeded", "failed", "cancelled", "parked", "suspect"]
const instanceStateNames = ["alive", "draining", "stopped", "dead"]

const named = (column: string, names: ReadonlyArray<string>) =>
  `CASE ${column} ${names.map((name, state) => `WHEN ${state} THEN '${name}'`).join(" ")} END AS status`

const views = ({ ddl }: Dialect, tables: Tables): ReadonlyArray<string> => {
  const times = (...columns: ReadonlyArray<string>) => columns.map((column) => `${ddl.readable(column)} AS ${column}`).join(", ")
  return [
    `${ddl.createView} ${tables.runs}_view AS SELECT id, origin_id, occurrence, job, queue, schedule, name, ${named("state", stateNames)},
       priority, ${times("run_at", "created_at", "claimed_at", "started_at", "finished_at")}, errors, timeouts, crashes,
       success_count, success_limit, error, owner FROM ${tables.runs}`,
    `${ddl.createView} ${tables.instances}_view AS SELECT id, host, pid, ${named("state", instanceStateNames)}, jobs, schedules, queues,
       ${times("lease_until", "started_at", "seen_at", "stopped_at")}, counts FROM ${tables.instances}`
  ]
}

const functions = (dialect: Dialect, tables: Tables): ReadonlyArray<string> => {
  const { keep } = dialect
  const database = { dialect, tables }
  return keep === null ? [] : [...Object.values(insertsKept(database)), ...claimsKept(database)].map((kept) => keep(kept).create)
}

/** Every step in its order; a step once published never changes. */
const steps = (dialect: Dialect, tables: Tables): ReadonlyArray<{ readonly name: string; readonly statements: ReadonlyArray<string> }> => [
  {
    name: "runs, attempts, instances",
    statements: [
      ...table(dialect, tables.runs, runs, "id", [
        // leads with what a claim sorts by, and holds only what can be claimed
        {
          name: "claim",
          columns: "queue, priority, run_at, id",
          where: `state = ${State.ready}`,
          withoutWhere: "state, queue, priority, run_at, id"
        },
        { name: "suspect", columns: "queue, priority, run_at, id", where: `state = ${State.suspect}`, withoutWhere: null },
        { name: "owned", columns: "owner", where: `state = ${State.running}` },
        { name: "unique", columns: "unique_key", unique: true, where: "unique_key IS NOT NULL" },
        { name: "chain", columns: "origin_id, occurrence", unique: true, where: "schedule IS NOT NULL" },
        { name: "done", columns: "state, finished_at", where: "finished_at IS NOT NULL" },
        { name: "parked", columns: "job", where: `state = ${State.parked}`, withoutWhere: null }
      ]),
      ...table(dialect, tables.attempts, attempts, "run_id, fence"),
      ...table(dialect, tables.instances, instances, "id", [{ name: "lease", columns: "state, lease_until" }]),
      ...dialect.ddl.tuning(tables),
      ...functions(dialect, tables),
      ...views(dialect, tables)
    ]
  }
]

/** The version of the tables that this code works with. */
export const supportedVersion = 1

const versionOf =
  ({ dialect, tables }: Database) =>
  (session: Session): Effect.Effect<number, SqlError> => {
    const number = (text: string, column: string) => Effect.map(session.run(text), (rows) => Number(rows[0]?.[column] ?? 0))
    return Effect.flatMap(number(dialect.ddl.tableExists(tables.migrations), "found"), (exists) =>
      exists === 0 ? Effect.succeed(0) : number(`SELECT MAX(version) AS version FROM ${tables.migrations}`, "version")
    )
  }

/** Fails unless the tables have the version this code works with. */
export const check = (database: Database): Effect.Effect<void, SchemaVersionError | StorageError> =>
  Effect.flatMap(database.read("read the version of the tables", versionOf(database)), (found) =>
    found === supportedVersion ? Effect.void : new SchemaVersionError({ found, supported: supportedVersion })
  )

/** Brings the tables to the version this code works with; does nothing if they are there, refuses if they are newer. */
export const migrate = (database: Database): Effect.Effect<void, MigrationError | SchemaVersionError | StorageError> => {
  const { dialect, tables } = database
  const refuseNewer = (found: number) =>
    found > supportedVersion ? Effect.fail(new SchemaVersionError({ found, supported: supportedVersion })) : Effect.succeed(found)

  const apply = (session: Session) =>
    Effect.gen(function* () {
      yield* session.run(
        `CREATE TABLE IF NOT EXISTS ${tables.migrations} (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL) ${dialect.ddl.tableOptions}`
      )
      const done = yield* Effect.flatMap(versionOf(database)(session), refuseNewer)
      for (const [index, step] of steps(dialect, tables).entries()) {
        if (index < done) continue
        for (const statement of step.statements) {
          yield* Effect.mapError(session.run(statement), (error) =>
            dialect.failure(error) === "rejected" ? new MigrationError({ version: index + 1, step: step.name, cause: error.cause }) : error
          )
        }
        yield* session.run(`INSERT INTO ${tables.migrations} (version, applied_at) VALUES (${index + 1}, ${dialect.now})`)
      }
    })

  const notYet = new StorageError({ operation: "migrate", reason: "contention" })
  const { lock, unlock } = dialect.ddl.migrationLock(tables)
  const locked = database.transact("migrate", (session) =>
    Effect.zipRight(
      lock === null
        ? Effect.void
        : Effect.flatMap(session.run(lock), ([row]) => (row?.got === undefined || number(row.got) === 1 ? Effect.void : notYet)),
      Effect.ensuring(apply(session), unlock === null ? Effect.void : Effect.ignore(session.run(unlock)))
    )
  )

  return Effect.flatMap(Effect.flatMap(database.read("read the version of the tables", versionOf(database)), refuseNewer), (found) =>
    found === supportedVersion ? Effect.void : locked
  )
}
