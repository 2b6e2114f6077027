/**
 * What the databases do differently: the words of the DDL, the clock, rows that travel as one JSON parameter, and the few
 * statements that no common SQL can say. Everything else is written once, in the stores.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type { State } from "../lifecycle.js"
import { mysql } from "./dialect/mysql.js"
import { postgres } from "./dialect/postgres.js"
import { sqlite } from "./dialect/sqlite.js"
import type { HintSql } from "./hints.js"
import type { Condition, Kept, Placeholders, Value } from "./statement.js"

/** The tables' names, with the prefix. */
export interface Tables {
  readonly prefix: string
  readonly runs: string
  readonly attempts: string
  readonly instances: string
  readonly migrations: string
}

export const tablesOf = (prefix: string): Tables => ({
  prefix,
  runs: `${prefix}_runs`,
  attempts: `${prefix}_attempts`,
  instances: `${prefix}_instances`,
  migrations: `${prefix}_migrations`
})

/** The types of the columns, by what they hold. */
export type ColumnType = "id" | "key" | "name" | "text" | "big" | "int" | "small"

/** What to make of an error of the driver. */
export type Failure =
  | "unique" // a unique index said no
  | "contention" // rolled back: a deadlock, a lock held too long, a conflict
  | "unavailable" // nothing was sent, or the server has no means for it now
  | "connection" // lost on the way: a write may have happened
  | "missingTables"
  | "rejected"

/** A driver that waits for locks by itself. */
export interface Blocking {
  /** the setting that says for how many milliseconds */
  readonly setting: string
  /** a question, and its answer if reading waits for nobody who writes */
  readonly readsFreely: readonly [question: string, answer: string]
  /** then: what a transaction begins with, so that a write in it that cannot have the lock fails at once */
  readonly atOnce: readonly [begin: string, look: string]
}

export interface Dialect {
  readonly placeholders: Placeholders
  /** the database's clock: epoch milliseconds, the same within one statement */
  readonly now: string
  readonly types: { readonly [T in ColumnType]: string }
  /** `FROM <rows> d`: the rows of a JSON array of objects in one text parameter */
  readonly rows: (parameter: string, columns: { readonly [column: string]: ColumnType }) => string
  /** pairs of an id and a value, `FROM <pairs> d(id, value)`: less to build and to parse than rows */
  readonly pairs: {
    readonly from: (value: ColumnType) => string
    readonly values: (pairs: ReadonlyArray<readonly [id: string, value: string | number]>) => { readonly [name: string]: Value }
  }
  /** the texts of some expressions with commas between them; NULL has none */
  readonly joined: (expressions: ReadonlyArray<string>) => string
  /** a JSON object of names and expressions, as text */
  readonly jsonObject: (members: { readonly [name: string]: string }) => string
  /** a column that no partial index is to be chosen for */
  readonly hidden: (column: string) => string
  /** whether a column is among the ids in a parameter, with commas between them */
  readonly among: (column: string, parameter: string) => string
  /** whether a column is one of some texts, whose parameters begin with this name */
  readonly oneOf: (column: string, name: string, all: ReadonlyArray<string>) => Condition
  /** the bytes of a text */
  readonly bytes: (text: string) => string
  /** a parameter as a 64-bit integer, where the database would otherwise guess */
  readonly big: (parameter: string) => string
  /** a row limit: MySQL takes no number of the driver's there, so it stands in the text */
  readonly limit: (rows: number) => string
  /** a join that finds for each row of its left side those of a table, which is called r, by an index of that table */
  readonly lookUp: (table: string, index: "primary" | "unique") => string
  /** where a statement can end with RETURNING: after INSERT and UPDATE */
  readonly returning: boolean
  /** whether a WITH may write, so that two statements travel as one */
  readonly writesInWith: boolean
  /** at the end of an INSERT ... SELECT: what is there already stays as it is; needs a column of the table's */
  readonly orKeep: (table: string, column: string) => string
  /** what makes the planner use an index of the runs, after the table's name */
  readonly useIndex: (tables: Tables, index: "claim" | "owned") => string
  /** `FOR UPDATE SKIP LOCKED`, where there are row locks */
  readonly skipLocked: string
  /** the same, waiting for the lock */
  readonly forUpdate: string
  /**
   * how the server keeps a statement planned: what makes it do so, and the statement that then stands for it; null: the driver keeps
   * its texts prepared. A name given to a connection would be lost behind a pooler that hands each transaction another one.
   */
  readonly keep: ((kept: Kept) => { readonly create: string; readonly call: string }) | null
  readonly begin: string
  /** the first and the longest pause before what others were in the way of is tried again, ms */
  readonly pauses: readonly [first: number, longest: number]
  /** whether the driver is synchronous, so that an answer cannot be lost on its way */
  readonly answersAtOnce: boolean
  /** how the driver waits for a lock and stops the event loop meanwhile, if it does, and what keeps it from that */
  readonly blocking: Blocking | null
  /** sent before a transaction or a statement of ours, so that it takes no gap locks */
  readonly beforeWrite: string | null
  /** whether it pays to ask for the first priority that has due runs before many are claimed, and to begin there */
  readonly asksWhereToBegin: boolean
  /** the claim of one queue, all priorities in order: an UPDATE that marks them */
  readonly claim: (tables: Tables, claim: ClaimSql) => string
  /** a parameter as a column's type, where the database would otherwise guess */
  readonly typed: (parameter: string, type: ColumnType) => string
  /** a parameter as an id, where the database would otherwise guess */
  readonly id: (parameter: string) => string
  /** after a SELECT: what other transactions have committed since ours began */
  readonly currentRead: string
  /** rows of one table locked, others skipped: the table has the alias r */
  readonly skipLockedRuns: string
  /** an UPDATE of many rows, each with its own values: the table is r, the values are d */
  readonly updateFrom: (update: UpdateFrom) => string
  /** the same with pairs, and without returning anything */
  readonly updatePairs: (update: UpdatePairs) => string
  /** a DELETE of the rows whose column is among the ids of `rows` */
  readonly deleteIn: (table: string, column: string, rows: string) => string
  /** an UPDATE of at most so many rows */
  readonly updateLimited: (update: UpdateLimited) => string
  /** how processes can hear of each other's runs */
  readonly hint: HintSql
  readonly failure: (error: SqlError) => Failure
  /** whether the driver remembers that it could not prepare this text, so that only another text gets another try; null: it never does */
  readonly remembersFailure: ((error: SqlError) => boolean) | null
  readonly ddl: {
    /** after the closing parenthesis of CREATE TABLE */
    readonly tableOptions: string
    /** whether CREATE TABLE names the indexes: MySQL has no CREATE INDEX IF NOT EXISTS, and no partial ones */
    readonly inlineIndexes: boolean
    /** extra statements after the tables are made */
    readonly tuning: (tables: Tables) => ReadonlyArray<string>
    /** milliseconds as a readable UTC time, for the views */
    readonly readable: (column: string) => string
    readonly createView: string
    /**
     * statements that take and release the lock of migrations; the first may answer that it `got` it, 1 or 0. Where `unlock` is null,
     * the end of the transaction releases it.
     */
    readonly migrationLock: (tables: Tables) => { readonly lock: string | null; readonly unlock: string | null }
    readonly tableExists: (table: string) => string
  }
}

export interface UpdateFrom {
  readonly table: string
  readonly rows: string
  /** the new values; none may depend on another column that changes, for MySQL assigns in no certain order */
  readonly set: { readonly [column: string]: string }
  readonly on: string
  readonly where: string
}

/** The rows are found by the ids of the pairs. */
export interface UpdatePairs {
  readonly table: string
  readonly value: ColumnType
  /** the new values, of which some may be the pair's value */
  readonly set: (value: string) => { readonly [column: string]: string }
  readonly where: string
}

export interface UpdateLimited {
  readonly table: string
  readonly set: string
  readonly where: string
  readonly limit: number
}

/** The parts of a claim that are the same on every database. */
export interface ClaimSql {
  readonly state: State
  /** `AND job IN (...) AND (schedule IS NULL OR schedule IN (...))` */
  readonly known: string
  /** `SET ...` of a claim */
  readonly set: string
  /** `EXISTS (...)`: this instance is alive and its lease is valid */
  readonly alive: string
  readonly limit: string
  /** no run of a priority before this one is due */
  readonly from: number
  /** what a claim returns, each column with this before it */
  readonly columns: (prefix: string) => string
}

/** The dialect of a client, or null if jobsd does not know it. */
export const dialectOf = (sql: SqlClient.SqlClient): Dialect | null =>
  sql.onDialectOrElse({ pg: () => postgres, mysql: () => mysql, sqlite: () => sqlite, orElse: (): Dialect | null => null })
