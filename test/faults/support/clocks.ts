/** Wrong clocks: processes whose wall clock is off from the start, or jumps; and a client for which the database's clock does. */
import { execFile } from "node:child_process"
import type { SqlClient } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { Effect } from "effect"
import { dialectOf } from "../../../src/internal/storage/dialect.js"
import { eventually } from "../../support/world.js"
import { bundled } from "./bundle.js"
import type { Execution, Freeze } from "./checker.js"
import type { Created, ProducerOptions } from "./clockProducer.js"
import type { Said } from "./worker.js"
import type { Worker } from "./workers.js"

const shift = new URL("./clockShift.mjs", import.meta.url)

/** What makes Node start a process with a wrong wall clock. Milliseconds, in whole seconds. */
export const offBy = (millis: number, jumps: ReadonlyArray<number> = []): ReadonlyArray<string> => [
  "--import",
  `${shift}?by=${millis}&jumps=${jumps.join()}`
]

/** by how much the clock was off, at the start and after each jump, as the process saw it */
export const seenOff = (worker: Worker): ReadonlyArray<number> =>
  worker.said.flatMap((line) => (line.say === "log" && line.level === "CLOCK" ? [Number(line.text)] : []))

/** Makes the clock of a process jump, and waits until it has. */
export const jump = (worker: Worker) =>
  Effect.suspend(() => {
    const before = seenOff(worker).length
    process.kill(worker.pid, "SIGUSR2")
    return eventually(
      Effect.sync(() => seenOff(worker)),
      (seen) => seen.length > before
    )
  })

/** What a process has said, with the moments as a right clock would have told them. */
const corrected = (worker: Worker): ReadonlyArray<Said> => {
  let off = 0
  return worker.said.map((line) => {
    if (line.say === "log" && line.level === "CLOCK") off = Number(line.text)
    return "at" in line ? { ...line, at: line.at - off } : line
  })
}

/** What the checker is told about processes whose own account of the time is wrong. They must be alive. */
export const historyOf = (workers: ReadonlyArray<Worker>) => {
  const executions: Array<Execution> = []
  const freezes: Array<Freeze> = []
  for (const worker of workers) {
    const { pid } = worker
    const lines = corrected(worker)
    for (const [i, line] of lines.entries()) {
      if (line.say === "lag" && line.millis > 500) freezes.push({ pid, from: line.at - line.millis - 50, until: line.at })
      if (line.say !== "start") continue
      const { attempt, at, run } = line
      const ends = lines
        .slice(i + 1)
        .flatMap((later) =>
          (later.say === "end" || later.say === "interrupted") && later.run === run && later.attempt === attempt ? [later.at] : []
        )
      executions.push({ run, attempt, pid, from: at, until: ends[0] ?? Number.POSITIVE_INFINITY })
    }
  }
  return { executions, freezes }
}

/** Runs a process that creates runs, to its end; what it created. */
export const produce = (options: ProducerOptions, nodeOptions: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Created>> =>
  Effect.promise(async () => {
    const script = await bundled("clockProducer")
    const output = await new Promise<string>((resolve, reject) =>
      execFile(process.execPath, [...nodeOptions, script, JSON.stringify(options)], (error, stdout) =>
        error === null ? resolve(stdout) : reject(error)
      )
    )
    return output
      .split("\n")
      .filter((line) => line.includes(`"created"`))
      .map((line) => JSON.parse(line))
  })

/** The database's clock, asked as the library asks for it. */
export const databaseNow = (sql: SqlClient.SqlClient): Effect.Effect<number> =>
  Effect.scoped(
    Effect.flatMap(sql.reserve, (connection) => connection.execute(`SELECT ${dialectOf(sql)!.now} AS now`, [], undefined))
  ).pipe(
    Effect.orDie,
    Effect.map(([row]) => Number(row.now))
  )

/** The database's clock as a client is told it: what this answers is by how much it has been set. */
export interface Stepped {
  readonly sql: SqlClient.SqlClient
  readonly step: (millis: number) => void
  /** in how many statements the clock was replaced */
  readonly replaced: () => number
  /** the most instances whose lease seemed to be over, in any sweep since the last step */
  readonly expired: () => number
}

const methods: ReadonlyArray<PropertyKey> = ["execute", "executeRaw", "executeUnprepared"]

/**
 * A client for which the database's clock can be set. The clock itself stays as it is: what changes is every statement that asks for
 * it. Whoever has only this client cannot tell the difference.
 */
export const steppedClient = (client: SqlClient.SqlClient): Stepped => {
  const { now } = dialectOf(client)!
  let off = 0
  let replaced = 0
  let expired = 0
  // what the server keeps asks for its clock where nobody sees it: here, the text itself is sent
  const keptTexts = new Map<string, string>()
  const rewritten = (sent: string) => {
    const [, name, moment, kept] =
      /CREATE OR REPLACE FUNCTION (\w+)\(.*?DECLARE (\w+) CONSTANT .*?BEGIN RETURN QUERY (.*); END/s.exec(sent) ?? []
    if (name !== undefined) keptTexts.set(name, kept!.replaceAll(moment!, now))
    const text = sent.replace(/SELECT \* FROM (\w+)\([$\d, ]*\)/, (call, name) => keptTexts.get(name) ?? call)
    const parts = text.split(now)
    if (parts.length > 1) replaced++
    return off === 0 ? text : parts.join(`(${now} + ${off})`)
  }
  const watched = (text: string, answer: Effect.Effect<any, any>) =>
    text.includes(") AS expired")
      ? Effect.tap(answer, (rows) => {
          expired = Math.max(expired, Number(rows[0]?.expired ?? 0))
        })
      : answer
  const wrappers = new WeakMap<Connection, Connection>()
  const wrap = (connection: Connection): Connection => {
    const known = wrappers.get(connection)
    if (known !== undefined) return known
    const wrapped = new Proxy(connection, {
      get: (target, name) =>
        methods.includes(name)
          ? (text: string, ...rest: ReadonlyArray<unknown>) =>
              Effect.suspend(() => watched(text, (target as any)[name](rewritten(text), ...rest)))
          : Reflect.get(target, name)
    })
    wrappers.set(connection, wrapped)
    return wrapped
  }
  const wrapClient = (client: SqlClient.SqlClient): SqlClient.SqlClient =>
    new Proxy(client, {
      get: (target, name) =>
        name === "reserve"
          ? Effect.map(target.reserve, wrap)
          : name === "withoutTransforms"
            ? () => wrapClient(target.withoutTransforms())
            : Reflect.get(target, name)
    })
  return {
    sql: wrapClient(client),
    step: (millis) => {
      off += millis
      expired = 0
    },
    replaced: () => replaced,
    expired: () => expired
  }
}
