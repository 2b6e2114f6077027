import { type Measure, median } from "../harness.ts"

/** A: how many runs a producer creates per second, in a process of its own that is connected and warm. */
export const create: Measure = {
  letter: "A",
  title: "Create, runs/s",
  rounds: { short: 1 },
  columns: [
    { figure: "sequential", title: "sequential", ratio: true },
    { figure: "atOnce", title: "10 at once", ratio: true },
    { figure: "bulk", title: "bulk 10k", ratio: true }
  ],
  suits: () => true,
  // six seconds for each
  short: ({ name }) => !name.endsWith(":full") && !name.startsWith("effect-pq"),
  run: async (cell) => {
    const producer = await cell.child(await cell.database())
    const millis = cell.full ? 1500 : 600
    // one after the other, some thousand a second: what is compiled after so many thousand calls takes a while
    const sequential = await producer.call("create", { atOnce: 1, millis, warmMillis: cell.full ? 10_000 : 2000 })
    const atOnce = await producer.call("create", { atOnce: 10, millis, warmMillis: cell.full ? 3000 : 1500 })
    const bulks: Array<number> = []
    for (let i = 0; i < 3; i++) {
      const rate = await producer.call("bulk", { count: 10_000 })
      if (rate !== null) bulks.push(rate)
    }
    return { sequential, atOnce, bulk: median(bulks) }
  }
}
