/**
 * How a database carries out what the library sends: a client that explains each statement about some tables right before it is
 * sent, on the same connection and with the same parameters. What the explanation carries out is rolled back.
 */
import type { SqlClient, SqlError } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { Effect } from "effect"

/** One place of a plan where a table is read. */
export interface Reading {
  readonly table: string
  /** the name of an index without its table's, "id" for the primary key, "place" for rows whose place is known; null: the table is read from end to end */
  readonly index: string | null
  /** the columns that say where in the index to look; none: the index is read from end to end */
  readonly by: ReadonlyArray<string>
  /** rows looked at in all rounds, and those that were then left out; null where the database does not count */
  readonly rows: number | null
}

export interface Plan {
  readonly text: string
  readonly readings: ReadonlyArray<Reading>
  /** how many rows of a table went into each sort; null where the database does not count */
  readonly sorts: ReadonlyArray<number | null>
  /** the looks into indexes that the whole statement took, as the storage engine counts them; null where it does not */
  readonly looks: number | null
  /** the plan as the database tells it, without times and costs */
  readonly told: string
}

export interface ObservedClient {
  readonly sql: SqlClient.SqlClient
  /** runs an effect, and tells how its statements that read the tables are carried out */
  readonly plansOf: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<readonly [A, ReadonlyArray<Plan>], E, R>
}

type Parameters = ReadonlyArray<unknown>
type Told = Record<string, any>

interface Explaining {
  readonly text: string
  readonly parameters: Parameters
  /** the tables of interest, by the names they go by in the text */
  readonly tables: ReadonlyMap<string, string>
  readonly ask: (text: string, parameters: Parameters) => Effect.Effect<ReadonlyArray<Told>, SqlError.SqlError>
  readonly undone: <A>(effect: Effect.Effect<A, SqlError.SqlError>) => Effect.Effect<A, SqlError.SqlError>
}

type Explain = (explaining: Explaining) => Effect.Effect<Omit<Plan, "text">, SqlError.SqlError>

const ofPrimaryKey = (table: string, index: string) =>
  index === "PRIMARY" || index === `${table}_pkey` || index.startsWith(`sqlite_autoindex_${table}_`)

const nameOf = (table: string, index: string) => (ofPrimaryKey(table, index) ? "id" : index.slice(table.length + 1))

/** Every object in a tree, and the objects around it from the outside in. */
const objectsIn = (tree: unknown, around: ReadonlyArray<Told> = []): ReadonlyArray<readonly [Told, ReadonlyArray<Told>]> => {
  if (tree === null || typeof tree !== "object") return []
  if (Array.isArray(tree)) return tree.flatMap((part) => objectsIn(part, around))
  return [[tree, around], ...Object.values(tree).flatMap((part) => objectsIn(part, [...around, tree]))]
}

const withoutPrices = (plan: unknown) =>
  JSON.stringify(
    plan,
    (key, value) =>
      /time|cost|width|parallel|async|written|local|temp |lossy|exact|engine|possible|length|filtered/i.test(key)
        ? undefined
        : typeof value === "string" && value.length > 200
          ? `${value.slice(0, 200)}...`
          : value,
    1
  )

// (queue = $1), (r.id = ANY (...)), ((run_at + 1) <= ...) is none
const columnsOf = (condition: string = "") => [...condition.matchAll(/\((?:\w+\.)?(\w+) (?:=|<|<=) /g)].map(([, column]) => column!)

/** before a text that the server keeps planned: its plan is to be one for all values */
export const keptMark = "/* kept */"

const literal = (value: unknown): string =>
  value === null
    ? "NULL"
    : typeof value === "number"
      ? String(value)
      : Array.isArray(value)
        ? literal(`{${value.map((one) => JSON.stringify(one)).join(",")}}`)
        : `'${String(value).replaceAll("'", "''")}'`

/** Each node of a plan counts its rows, on average over its rounds. Rounded to whole ones before PostgreSQL 18. */
const postgres: Explain = ({ ask, parameters, tables, text, undone }) => {
  const explaining = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
  const explained = text.startsWith(keptMark)
    ? Effect.gen(function* () {
        yield* ask("SET LOCAL plan_cache_mode = force_generic_plan", [])
        yield* ask(`PREPARE kept AS ${text}`, [])
        const rows = yield* ask(`${explaining} EXECUTE kept(${parameters.map(literal).join(", ")})`, [])
        yield* ask("DEALLOCATE kept", [])
        return rows
      })
    : ask(`${explaining} ${text}`, parameters)
  return Effect.map(undone(explained), ([row]) => {
    const plan = row!["QUERY PLAN"][0].Plan
    const nodes = objectsIn(plan).filter(([node]) => "Node Type" in node)
    const count = (node: Told) => {
      const left = (node["Rows Removed by Filter"] ?? 0) + (node["Rows Removed by Index Recheck"] ?? 0)
      return Math.round((node["Actual Rows"] + left) * node["Actual Loops"])
    }
    const known = [...new Set(tables.values())]
    const reading = ([node, around]: readonly [Told, ReadonlyArray<Told>]): ReadonlyArray<Reading> => {
      const index = node["Index Name"] as string | undefined
      const table = index === undefined ? node["Relation Name"] : known.find((name) => index.startsWith(`${name}_`))
      if (!known.includes(table)) return []
      if (index !== undefined) {
        // a bitmap has the dead versions of a row too
        const heap = around.findLast((outer) => outer["Node Type"] === "Bitmap Heap Scan")
        const isWhole = !around.some((outer) => outer["Node Type"] === "BitmapAnd")
        const rows = count(heap !== undefined && isWhole ? heap : node)
        return [{ table, index: nameOf(table, index), by: columnsOf(node["Index Cond"]), rows }]
      }
      if (node["Node Type"] === "Tid Scan") return [{ table, index: "place", by: columnsOf(node["TID Cond"]), rows: count(node) }]
      return /Scan$/.test(node["Node Type"]) && node["Node Type"] !== "Bitmap Heap Scan"
        ? [{ table, index: null, by: [], rows: count(node) }]
        : []
    }
    return {
      readings: nodes.flatMap(reading),
      sorts: nodes
        .filter(([node]) => /Sort$/.test(node["Node Type"]) && objectsIn(node).some(([inner]) => known.includes(inner["Relation Name"])))
        .map(([node]) => count(node.Plans[0])),
      looks: null,
      told: withoutPrices(plan)
    }
  })
}

/** MariaDB: MySQL explains what it has carried out for SELECT alone. */
const mariadb: Explain = ({ ask, parameters, tables, text, undone }) =>
  Effect.gen(function* () {
    // reads of temporary tables and of the rows of a JSON text are counted apart, as read_rnd
    const counter = Effect.map(
      ask("SHOW SESSION STATUS WHERE Variable_name RLIKE '^Handler_read_(first|key|last|next|prev)$'", []),
      (rows) => rows.reduce((sum, row) => sum + Number(row.Value), 0)
    )
    const before = yield* counter
    const [row] = yield* ask(`ANALYZE FORMAT=JSON ${text}`, parameters)
    const looks = (yield* counter) - before
    const plan = JSON.parse(row!.ANALYZE)
    const objects = objectsIn(plan).map(([object]) => object)
    const count = (node: Told) => Math.round((node.r_rows ?? 0) * (node.r_loops ?? 1))
    const isTable = (node: Told) => tables.has(node.table_name)
    return {
      readings: objects.filter(isTable).flatMap((node): ReadonlyArray<Reading> => {
        const table = tables.get(node.table_name)!
        const isScan = node.access_type === "ALL" || node.key === undefined
        const by = node.access_type === "index" ? [] : (node.used_key_parts ?? [])
        const reading = { table, index: isScan ? null : nameOf(table, node.key), by, rows: count(node) }
        // the ids of another index, read beforehand to leave out rows without looking at them
        const filter = node.rowid_filter
        if (filter === undefined) return [reading]
        const { key, used_key_parts } = filter.range
        return [reading, { table, index: nameOf(table, key), by: used_key_parts, rows: filter.r_rows ?? 0 }]
      }),
      sorts: objects.flatMap(({ filesort }) =>
        objectsIn(filesort)
          .filter(([node]) => isTable(node))
          .map(([node]) => count(node))
      ),
      looks,
      told: withoutPrices(plan)
    }
  }).pipe(undone)

/** Carries nothing out and counts nothing, but says of each table whether it is searched, and by which columns, or scanned. */
const sqlite: Explain = ({ ask, parameters, tables, text }) =>
  Effect.map(ask(`EXPLAIN QUERY PLAN ${text}`, parameters), (rows) => {
    const details = rows.map(({ detail }) => String(detail))
    return {
      readings: details.flatMap((detail): ReadonlyArray<Reading> => {
        const [, name = "", place, index, columns = ""] =
          /^(?:SCAN|SEARCH) (\w+)(?: USING (?:(INTEGER PRIMARY KEY)|(?:COVERING )?INDEX (\w+)))?(?: \((.*)\))?/.exec(detail) ?? []
        const table = tables.get(name)
        const by = [...columns.matchAll(/(\w+)[=<>]/g)].map(([, column]) => column!)
        if (table === undefined) return []
        return [{ table, index: index !== undefined ? nameOf(table, index) : place !== undefined ? "place" : null, by, rows: null }]
      }),
      sorts: details.filter((detail) => detail.includes("TEMP B-TREE FOR ORDER BY")).map(() => null),
      looks: null,
      told: details.join("\n")
    }
  })

/** The tables that a text reads, by their names in it; to add rows to a table is not to read it. */
const tablesIn = (text: string, tables: ReadonlyArray<string>): ReadonlyMap<string, string> =>
  new Map(
    tables.flatMap((table) => {
      const reads = [...text.matchAll(new RegExp(`(?<!INTO )\\b${table}\\b(?!\\.)(?: AS\\b)?(?: ([a-z]\\w*))?`, "g"))]
      return reads.flatMap(([, alias]) => [[table, table] as const, ...(alias === undefined ? [] : [[alias, table] as const])])
    })
  )

/** A client that can tell the plans of its statements about these tables. */
export const observe = (client: SqlClient.SqlClient, tables: ReadonlyArray<string>): ObservedClient => {
  const explain = client.onDialectOrElse({ pg: () => postgres, mysql: () => mariadb, orElse: () => sqlite })
  let found: Array<Plan> | null = null

  const explained = (connection: Connection, text: string, parameters: Parameters, transaction: Transaction) => {
    const send = (...texts: ReadonlyArray<string>) =>
      Effect.forEach(texts, (text) => connection.executeUnprepared(text, [], undefined), { discard: true })
    const [begin, end] = transaction.isOpen
      ? [send("SAVEPOINT explained"), send("ROLLBACK TO SAVEPOINT explained")]
      : // what was said about the next transaction holds for this one, and has to be said again
        [send("BEGIN"), send("ROLLBACK", ...transaction.settings)]
    return explain({
      text,
      parameters,
      tables: tablesIn(text, tables),
      ask: (text, parameters) => connection.execute(text, parameters, undefined) as Effect.Effect<ReadonlyArray<Told>, SqlError.SqlError>,
      undone: (effect) => Effect.zipRight(begin, Effect.zipLeft(effect, end))
    })
  }

  interface Transaction {
    isOpen: boolean
    /** what was said about the next one */
    settings: ReadonlyArray<string>
  }

  const methods: ReadonlyArray<string | symbol> = ["execute", "executeRaw", "executeValues", "executeUnprepared"]
  // a Proxy, so that a connection keeps its class
  const observed = (connection: Connection): Connection => {
    const transaction: Transaction = { isOpen: false, settings: [] }
    const beforeSending = (text: string, parameters: Parameters) => {
      if (/^\s*SET TRANSACTION/.test(text)) transaction.settings = [text]
      else if (/^\s*(BEGIN|START)/.test(text)) Object.assign(transaction, { isOpen: true, settings: [] })
      else if (/^\s*(COMMIT|ROLLBACK)/.test(text)) transaction.isOpen = false
      const plans = found
      return plans === null || !/^\s*(\/\* kept \*\/ )?(SELECT|UPDATE|DELETE|INSERT|WITH)\b/.test(text) || tablesIn(text, tables).size === 0
        ? Effect.void
        : Effect.map(explained(connection, text, parameters, transaction), (plan) => plans.push({ text, ...plan }))
    }
    return new Proxy(connection, {
      get: (target, name) =>
        methods.includes(name)
          ? (text: string, parameters: Parameters, ...rest: ReadonlyArray<unknown>) =>
              Effect.zipRight(
                Effect.suspend(() => beforeSending(text, parameters)),
                // suspended: the SQLite driver prepares a text when the effect is made
                Effect.suspend(() => (target as any)[name](text, parameters, ...rest) as Effect.Effect<unknown, SqlError.SqlError>)
              )
          : (target as any)[name]
    })
  }

  const wrapped = (client: SqlClient.SqlClient): SqlClient.SqlClient =>
    new Proxy(client, {
      get: (target, name) => {
        if (name === "reserve") return Effect.map(target.reserve, observed)
        if (name === "withoutTransforms") return () => wrapped(target.withoutTransforms())
        return Reflect.get(target, name)
      }
    })

  return {
    sql: wrapped(client),
    plansOf: (effect) =>
      Effect.suspend(() => {
        const plans: Array<Plan> = []
        found = plans
        const stop = Effect.sync(() => {
          found = null
        })
        return Effect.map(Effect.ensuring(effect, stop), (answer) => [answer, plans] as const)
      })
  }
}
