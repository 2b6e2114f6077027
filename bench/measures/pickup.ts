import { setTimeout as sleep } from "node:timers/promises"
import { countTwice } from "../drain.ts"
import { type Measure, percentile } from "../harness.ts"

/** C: from the moment a process creates a run to the moment the handler starts in another, which has nothing else to do. */
export const pickup: Measure = {
  letter: "C",
  title: "Pick-up by an idle worker in another process, ms",
  rounds: { short: 1 },
  columns: [
    { figure: "p50", title: "p50", ratio: true, better: "less" },
    { figure: "p95", title: "p95" },
    { figure: "p99", title: "p99", ratio: true, better: "less" },
    { figure: "twice", title: "twice" },
    { figure: "lost", title: "lost" }
  ],
  suits: () => true,
  // syncing at every commit costs the creation, not the pick-up
  short: ({ name }) => !name.endsWith(":full") && !name.startsWith("effect-pq"),
  run: async (cell) => {
    const count = cell.full ? 100 : 60
    const database = await cell.database()
    const [producer, worker] = await Promise.all([cell.child(database), cell.child(database)])
    await Promise.all([producer.call("open"), worker.call("work", { concurrency: 10, count })])
    await sleep(300)
    await producer.call("spaced", { count, millis: 50 })
    for (let waited = 0; worker.executed() < count && waited < 15_000; waited += 10) await sleep(10)
    const report = await worker.call("report")
    const { never, twice } = countTwice([report], count)
    const at = (share: number) => percentile(report.latencies, share)
    return { p50: at(0.5), p95: at(0.95), p99: at(0.99), twice, lost: never }
  }
}
