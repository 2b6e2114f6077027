/**
 * SQL with named parameters, turned once into a fixed text and an order of values. Only the table names, which are checked, are
 * ever part of a text; every value travels as a parameter. Fixed texts cost nothing to build per call and can stay prepared.
 */

import type { ColumnType } from "./dialect.js"

/** An array is one parameter, where the database has them. */
export type Value = string | number | null | ReadonlyArray<string | number>

/** A text with its dialect's placeholders, and the parameter that each stands for. */
export interface Statement {
  readonly text: string
  readonly names: ReadonlyArray<string>
}

/** A statement that is sent for single runs, which a database that plans each text anew can keep planned under a name. */
export interface Kept {
  readonly name: string
  readonly source: string
  /** what is tried first, where the server can catch an error: the same, but a row that is there already is one */
  readonly hopeful?: string
  /** whether there is one way to do it: it looks for no rows, and takes no arrays */
  readonly isPlain: boolean
  readonly parameters: { readonly [parameter: string]: ColumnType | `${ColumnType}[]` }
  /** null: nothing, and then it says :hint to :channel, unless there is none */
  readonly returns: { readonly [column: string]: ColumnType } | null
}

/** How a dialect writes its n-th parameter, and whether one placeholder may stand in several places. */
export type Placeholders = "numbered" | "positional"

// :name, but not ::type
const parameter = /(?<![:\w]):([a-zA-Z]\w*)/g

export const compile =
  (placeholders: Placeholders) =>
  (source: string): Statement => {
    const names: Array<string> = []
    const text = source.replace(parameter, (_, name: string) => {
      if (placeholders === "positional") {
        names.push(name)
        return "?"
      }
      const known = names.indexOf(name)
      return `$${known === -1 ? names.push(name) : known + 1}`
    })
    return { text: text.replace(/\s+/g, " ").trim(), names }
  }

/** The values of a statement in their order. A name without a value is a mistake of ours. */
export const bind = (statement: Statement, values: { readonly [name: string]: Value }): ReadonlyArray<Value> =>
  statement.names.map((name) => {
    const value = values[name]
    if (value === undefined) {
      throw new Error(`no value for :${name} in ${statement.text}`)
    }
    return value
  })

/** A condition, and the values of its parameters. */
export interface Condition {
  readonly sql: string
  readonly values: { readonly [name: string]: Value }
}

/** values of the parameters name0, name1 */
export const valuesOf = (name: string, all: ReadonlyArray<string>): Condition["values"] =>
  Object.fromEntries(all.map((one, i) => [`${name}${i}`, one]))

/** `column IN (:name0, :name1)`, where the database has no arrays */
export const inList = (column: string, name: string, all: ReadonlyArray<string>): Condition => ({
  sql: all.length === 0 ? "1 = 0" : `${column} IN (${all.map((_, i) => `:${name}${i}`).join(", ")})`,
  values: valuesOf(name, all)
})

/** `a = 1, b = 2`, with what stands before each column: MySQL wants it there, the others forbid it. */
export const assignments = (set: { readonly [column: string]: string }, before = ""): string =>
  Object.entries(set)
    .map(([column, value]) => `${before}${column} = ${value}`)
    .join(", ")

/** `'a', x, 'b', y`, for a function that makes a JSON object */
export const jsonMembers = (members: { readonly [name: string]: string }): string =>
  Object.entries(members)
    .map(([name, expression]) => `'${name}', ${expression}`)
    .join(", ")

/** A JSON object of ids and values, in a third of the time of `JSON.stringify(Object.fromEntries(pairs))`. */
export const objectOf = (pairs: ReadonlyArray<readonly [id: string, value: string | number]>): string =>
  `{${pairs.map(([id, value]) => `"${id}":${typeof value === "number" ? value : JSON.stringify(value)}`).join(",")}}`
