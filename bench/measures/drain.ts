import { drain as drainQueue, fillQueue } from "../drain.ts"
import type { Cell, Column, Figures, Measure } from "../harness.ts"

export const drainCount = ({ entry }: Cell): number => entry.drain ?? 20_000
export const drainCap = ({ full }: Cell): number => (full ? 12_000 : 6000)

/** Fills an empty database and drains it. */
export const drainFresh = async (
  cell: Cell,
  options: { readonly concurrency?: number; readonly processes?: number; readonly variant?: string; readonly warm?: number } = {}
): Promise<Figures> => {
  const { concurrency = 50, processes = 1, variant, warm = 0 } = options
  // as many for each process
  const count = drainCount(cell) * processes
  const database = await cell.database(variant)
  // they only load their modules meanwhile
  const [workers] = await Promise.all([
    Promise.all(Array.from({ length: processes }, () => cell.child(database, variant))),
    fillQueue(cell, database, count, warm)
  ])
  const { figures } = await drainQueue(cell, database, workers, { concurrency, count, cap: (1 + warm / count) * drainCap(cell) })
  return figures
}

/** What must be nothing, everywhere. */
export const mistakes: ReadonlyArray<Column> = [
  { figure: "left", title: "left at cap" },
  { figure: "twice", title: "twice" },
  { figure: "lost", title: "lost" }
]

const columns: ReadonlyArray<Column> = [
  { figure: "rate", title: "runs/s", ratio: true },
  { figure: "rateFromStart", title: "with start-up" },
  { figure: "firstMillis", title: "first run ms" },
  { figure: "transactions", title: "transactions/run" },
  { figure: "statements", title: "statements/run" },
  { figure: "logBytes", title: "log bytes/run" },
  { figure: "cpu", title: "CPU µs/run" },
  { figure: "cpuFromStart", title: "with start-up" },
  { figure: "peakRss", title: "peak RSS MB", ratio: true, better: "less" },
  { figure: "gap", title: "longest gap ms" },
  ...mistakes
]

/** B, with H and J: how many no-op runs one worker process finishes per second, and what each costs. */
export const drain: Measure = {
  letter: "B",
  title: "Drain of 20,000 no-op runs by one process at concurrency 50; H: its memory; J: the longest gap between ticks of its event loop",
  rounds: {},
  columns,
  suits: () => true,
  run: (cell) => drainFresh(cell)
}

/** W: the same by a process that has been at work for a while, as most have: V8 has compiled what it uses. */
export const drainWarm: Measure = {
  letter: "W",
  title: "Drain of 20,000 no-op runs by one process at concurrency 50 that has just done twice as many",
  rounds: { short: 1 },
  short: ({ name, on }) => on === "postgres" || (on === "sqlite" && !name.endsWith(":full")),
  columns: [
    { figure: "rate", title: "runs/s", ratio: true },
    { figure: "cpu", title: "CPU µs/run" },
    { figure: "gap", title: "longest gap ms" },
    ...mistakes
  ],
  suits: () => true,
  run: (cell) => drainFresh(cell, { warm: 2 * drainCount(cell) })
}

export const drainTen: Measure = {
  ...drain,
  letter: "B10",
  title: "Drain of 20,000 no-op runs by one process at concurrency 10",
  rounds: { short: 0 },
  run: (cell) => drainFresh(cell, { concurrency: 10 })
}

/** E: the same with two processes, and twice as many runs. */
export const two: Measure = {
  letter: "E",
  title: "Drain of 40,000 no-op runs by two processes at concurrency 50 each",
  needs: ["B"],
  rounds: { short: 1 },
  short: ({ on }) => on === "postgres",
  columns: [
    { figure: "rate", title: "runs/s", ratio: true },
    { figure: "timesOne", title: "x one process" },
    { figure: "share", title: "smaller share" },
    ...mistakes
  ],
  suits: () => true,
  run: async (cell) => {
    const { left, lost, rate, share, twice } = await drainFresh(cell, { processes: 2 })
    const one = cell.earlier("B")?.rate
    return { rate: rate!, share: share!, left: left!, twice: twice!, lost: lost!, timesOne: one ? rate! / one : null }
  }
}
