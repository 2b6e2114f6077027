import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../databases.ts"
import { analyze, drain, fillQueue, fillTable } from "../drain.ts"
import { type Cell, type Measure, median } from "../harness.ts"
import { type Filling, now } from "../system.ts"
import type { Entry } from "../systems/index.ts"
import { drainCap, drainCount } from "./drain.ts"

/** The fillings of G and what they are called. */
export const growths = {
  finished: "500k finished",
  future: "200k future",
  unknown: "100k of a job nobody here knows",
  elsewhere: "100k in a queue not worked here"
} satisfies { [filling in Filling]?: string }

/**
 * How often each filling is drained, each time next to a drain of a database without it, before or after by turns: single drains differ
 * by a tenth. Peers have no target.
 */
const pairsOf = ({ role }: Entry) => (role === "peer" ? 1 : 8)

const drainIn = async (cell: Cell, database: Database) => {
  const count = drainCount(cell)
  await fillQueue(cell, database, count)
  // whoever had rows before is analyzed, and the floor drains such a table a fifth faster on PostgreSQL: the empty one is, too
  await analyze(cell, database)
  const { figures } = await drain(cell, database, [await cell.child(database)], { concurrency: 50, count, cap: drainCap(cell) })
  return figures
}

/**
 * Lets a worker look after the table before anything is measured, as one that had been there for a while would have: until it sets
 * no more runs aside, twenty seconds at most. A system that has no such thing gets the same time to settle.
 */
const lookAfter = async (cell: Cell, database: Database): Promise<number | null> => {
  const { parked } = cell.system
  if (parked === undefined) return null
  const worker = await cell.child(database)
  await worker.call("work", { concurrency: 10, count: 0, ticking: false })
  const start = now()
  let before = -1
  let count = 0
  while (count > before && now() - start < 20_000) {
    await sleep(2500)
    before = count
    count = Number((await database.run(parked))[0]!.parked)
  }
  await worker.end()
  return count
}

/** G: the drain again beside rows that are not to be drained, each time next to one without them. */
export const growth: Measure = {
  letter: "G",
  title: "Drain beside other rows, as a share of the drain without them",
  rounds: { short: 0, full: 1 },
  columns: [
    { figure: "empty", title: "empty, runs/s" },
    ...Object.entries(growths).map(([figure, title]) => ({ figure, title, ratio: true })),
    { figure: "parked", title: "of those unknown parked" },
    { figure: "twice", title: "twice" },
    { figure: "lost", title: "lost" }
  ],
  suits: ({ name, quick }) => quick && !name.endsWith(":full") && name !== "effect-pq:poll",
  run: async (cell) => {
    const rates: Array<number> = []
    const figures: { [figure: string]: number | null } = {}
    let twice = 0
    let lost = 0
    for (const filling of Object.keys(growths) as ReadonlyArray<Filling>) {
      if (cell.system.fill[filling] === undefined) continue
      const empty = await cell.database("empty")
      const filled = await cell.database(filling)
      await fillTable(cell, filled, filling)
      if (filling === "unknown") figures.parked = await lookAfter(cell, filled)
      const shares: Array<number> = []
      for (let pair = 0; pair < pairsOf(cell.entry); pair++) {
        const emptyFirst = pair % 2 === 0
        const first = await drainIn(cell, emptyFirst ? empty : filled)
        const second = await drainIn(cell, emptyFirst ? filled : empty)
        const [without, beside] = emptyFirst ? [first, second] : [second, first]
        rates.push(without.rate!)
        shares.push(beside.rate! / without.rate!)
        twice += first.twice! + second.twice!
        lost += (first.lost ?? 0) + (second.lost ?? 0)
        // what was not drained in time would count for the next
        if (first.left !== 0 || second.left !== 0) break
      }
      figures[filling] = median(shares)
      await empty.drop()
      await filled.drop()
    }
    return { empty: median(rates), ...figures, twice, lost }
  }
}
