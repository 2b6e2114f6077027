import { setTimeout as sleep } from "node:timers/promises"
import type { Child } from "../children.ts"
import type { Database } from "../databases.ts"
import { drain, fillQueue, fillTable } from "../drain.ts"
import type { Cell, Measure } from "../harness.ts"
import type { Filling } from "../system.ts"
import { drainCap, mistakes } from "./drain.ts"

/** a database that holds nothing, or a million of something */
const filled = async (cell: Cell, filling?: Filling): Promise<Database> => {
  const database = await cell.database(filling)
  if (filling !== undefined) await fillTable(cell, database, filling)
  return database
}

const workerOn = async (cell: Cell, filling?: Filling): Promise<Child> => {
  const database = await filled(cell, filling)
  await database.disconnect()
  const worker = await cell.child(database)
  await worker.call("work", { concurrency: 50, count: 0 })
  return worker
}

const sizeOf = async (worker: Child) => (await worker.call("report")).rss / 1e6

/** what an idle worker takes after five seconds: V8 gives 50 MB back some time between the seventh and the sixteenth */
const restingSize = async (cell: Cell, filling?: Filling) => {
  const worker = await workerOn(cell, filling)
  await sleep(5000)
  const size = await sizeOf(worker)
  await worker.end()
  return size
}

/** H: whether a worker's memory depends on how many runs wait: a million that are due later, and a million that it works on. */
export const waiting: Measure = {
  letter: "H",
  title: "Memory of a worker while a million runs wait for later, and while it works on a million, MB",
  rounds: { short: 0, full: 1 },
  columns: [
    { figure: "empty", title: "nothing waits" },
    { figure: "future", title: "1M for later" },
    { figure: "share", title: "/ nothing" },
    { figure: "early", title: "1M due, seconds 5-9" },
    { figure: "late", title: "seconds 16-20" },
    { figure: "growth", title: "late / early" },
    { figure: "peakRss", title: "peak" }
  ],
  suits: ({ name }) => name === "jobsd" || name === "raw",
  run: async (cell) => {
    const empty = await restingSize(cell)
    const future = await restingSize(cell, "later")
    const worker = await workerOn(cell, "waiting")
    const sizes: Array<number> = []
    for (let second = 0; second < 20; second++) {
      await sleep(1000)
      sizes.push(await sizeOf(worker))
    }
    const { peakRss } = await worker.call("report")
    const early = Math.max(...sizes.slice(4, 9))
    const late = Math.max(...sizes.slice(15))
    return { empty, future, share: future / empty, early, late, growth: late / early, peakRss: peakRss / 1e6 }
  }
}

const count = 100_000

/** I: a drain while a million finished rows that are older than the retention are being deleted. */
export const retention: Measure = {
  letter: "I",
  title: "Drain of 100,000 runs while a million finished ones are deleted, against the same without them",
  rounds: { short: 0, full: 1 },
  columns: [
    { figure: "alone", title: "without, runs/s" },
    { figure: "rate", title: "runs/s" },
    { figure: "share", title: "/ without" },
    { figure: "deleted", title: "deleted meanwhile" },
    { figure: "gap", title: "longest gap ms" },
    ...mistakes
  ],
  suits: ({ name }) => name === "jobsd",
  run: async (cell) => {
    const drainBeside = async (filling?: Filling) => {
      const database = await filled(cell, filling)
      await fillQueue(cell, database, count)
      const worker = await cell.child(database)
      const { figures } = await drain(cell, database, [worker], { concurrency: 50, count, cap: 3 * drainCap(cell) })
      const rows = Number((await database.run("SELECT count(*) AS n FROM jobsd_runs"))[0]!.n)
      await database.drop()
      return { figures, rows }
    }
    const without = await drainBeside()
    const { figures, rows } = await drainBeside("expired")
    return {
      alone: without.figures.rate!,
      rate: figures.rate!,
      share: figures.rate! / without.figures.rate!,
      deleted: 1_000_000 + count - rows,
      gap: figures.gap!,
      left: figures.left!,
      twice: without.figures.twice! + figures.twice!,
      lost: figures.lost ?? null
    }
  }
}
