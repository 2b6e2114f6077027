/** A drain: runs are in the table, workers start, and the clock stops when the last outcome is in the table. */
import { setTimeout as sleep } from "node:timers/promises"
import type { Report } from "./child.ts"
import type { Child } from "./children.ts"
import type { Database } from "./databases.ts"
import type { Cell, Figures } from "./harness.ts"
import { type Filling, now } from "./system.ts"

export interface Drained {
  readonly figures: Figures
  readonly reports: ReadonlyArray<Report>
}

export const pendingOf = async ({ system }: Cell, database: Database): Promise<number> =>
  Number((await database.run(system.pending))[0]!.pending)

/** Runs executed more than once, and never; runs that were not due to end before the cap cannot be told from lost ones. */
export const countTwice = (reports: ReadonlyArray<Report>, count: number): { readonly twice: number; readonly never: number } => {
  let twice = 0
  let never = 0
  for (let id = 0; id < count; id++) {
    const times = reports.reduce((sum, report) => sum + report.times[id]!, 0)
    if (times === 0) never++
    else twice += times - 1
  }
  return { twice, never }
}

/** Tells the planner what is in the tables. */
export const analyze = async ({ system }: Cell, database: Database): Promise<void> => {
  if (system.analyze !== undefined) await database.run(system.analyze)
}

/** Puts rows into the table that are there before a drain, or a million that are to be worked on. */
export const fillTable = async (cell: Cell, database: Database, filling: Filling): Promise<void> => {
  for (const statement of cell.system.fill[filling] ?? []) await database.run(statement)
  await analyze(cell, database)
}

/** Fills the table through the system's own producer, in a process that is gone when the drain begins; `warm` runs only warm up. */
export const fillQueue = async (cell: Cell, database: Database, count: number, warm = 0): Promise<void> => {
  const producer = await cell.child(database)
  await producer.call("fill", { count, warm })
  await producer.end()
}

/**
 * Drains `count` runs, numbered from 0, with as many worker processes as are given. A drain that is not over after `cap`
 * milliseconds is rated by what was finished by then.
 */
export const drain = async (
  cell: Cell,
  database: Database,
  workers: ReadonlyArray<Child>,
  options: { readonly concurrency: number; readonly count: number; readonly cap: number }
): Promise<Drained> => {
  const { concurrency, count } = options
  const { server } = cell
  const before = await server.counters(database)
  const logBefore = await server.logBytes()
  let asked = 0

  const start = now()
  const working = Promise.all(workers.map((worker) => worker.call("work", { concurrency, count })))
  let failure: unknown
  working.catch((error) => {
    failure = error
  })
  const executed = () => workers.reduce((sum, worker) => sum + worker.executed(), 0)
  const over = () => failure !== undefined || now() - start > options.cap
  // looking costs: it begins when there is little left
  while (executed() < 0.97 * count && !over()) await sleep(2)
  let left = count
  while (!over()) {
    left = await pendingOf(cell, database)
    asked++
    if (left === 0) break
    await sleep(2)
  }
  if (failure !== undefined) throw failure
  if (left !== 0) {
    left = await pendingOf(cell, database)
    asked++
  }
  const end = now()
  const logAfter = await server.logBytes()
  const reports = await Promise.all(workers.map((worker) => worker.call("report")))
  await Promise.all(workers.map((worker) => worker.end()))
  await database.disconnect()
  const after = await server.counters(database)

  const finished = count - left
  const { never, twice } = countTwice(reports, count)
  const firstAt = Math.min(...reports.map((report) => report.firstAt ?? end))
  const per = (total: number | null, of = finished) => (total === null || of === 0 ? null : total / of)
  const difference = (a: number | null, b: number | null, less = 0) => (a === null || b === null ? null : b - a - less)
  const sum = (of: (report: Report) => number) => reports.reduce((total, report) => total + of(report), 0)
  return {
    reports,
    figures: {
      // a system that only warmed up has no rate
      rate: finished > 0 ? (1000 * finished) / (end - firstAt) : null,
      rateFromStart: (1000 * finished) / (end - start),
      firstMillis: firstAt - start,
      transactions: per(difference(before.transactions, after.transactions, asked)),
      statements: per(difference(before.statements, after.statements, asked)),
      logBytes: per(difference(logBefore, logAfter)),
      cpu: per(
        sum(({ cpuAfterStart }) => cpuAfterStart),
        sum(({ executed }) => executed)
      ),
      cpuFromStart: per(
        sum(({ cpu }) => cpu),
        sum(({ executed }) => executed)
      ),
      peakRss: Math.max(...reports.map(({ peakRss }) => peakRss)) / 1e6,
      gap: Math.max(...reports.map(({ gap }) => gap)),
      share:
        Math.min(...reports.map(({ executed }) => executed)) /
        Math.max(
          1,
          sum(({ executed }) => executed)
        ),
      left,
      twice,
      lost: left === 0 ? never : null
    }
  }
}
