import { drain as drainQueue, fillQueue } from "../drain.ts"
import type { Cell, Figures, Measure } from "../harness.ts"

export const drainCount = ({ entry }: Cell): number => entry.drain ?? 20_000
export const drainCap = ({ full }: Cell): number => (full ? 12_000 : 6000)

/** Fills an empty database and drains it with so many processes. */
export const drainFresh = async (cell: Cell, concurrency: number, processes: number, count = drainCount(cell)): Promise<Figures> => {
  const database = await cell.database()
  await fillQueue(cell, database, count)
  const workers = await Promise.all(Array.from({ length: processes }, () => cell.child(database)))
  const { figures } = await drainQueue(cell, database, workers, { concurrency, count, cap: drainCap(cell) })
  return figures
}

const columns: Measure["columns"] = [
  { figure: "rate", title: "runs/s", ratio: true },
  { figure: "rateFromStart", title: "with start-up" },
  { figure: "firstMillis", title: "first run ms" },
  { figure: "transactions", title: "transactions/run" },
  { figure: "statements", title: "statements/run" },
  { figure: "logBytes", title: "log bytes/run" },
  { figure: "cpu", title: "CPU µs/run" },
  { figure: "peakRss", title: "peak RSS MB" },
  { figure: "gap", title: "longest gap ms" },
  { figure: "finished", title: "finished" },
  { figure: "twice", title: "twice" },
  { figure: "lost", title: "lost" }
]

/** B, with H and J: how many no-op runs one worker process finishes per second, and what each costs. */
export const drain: Measure = {
  letter: "B",
  title: "Drain of 20,000 no-op runs by one process at concurrency 50",
  columns,
  suits: () => true,
  run: (cell) => drainFresh(cell, 50, 1)
}

export const drainTen: Measure = { ...drain, letter: "B10", full: true, title: "The same at concurrency 10", run: (cell) => drainFresh(cell, 10, 1) }
