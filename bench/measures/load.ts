import { setTimeout as sleep } from "node:timers/promises"
import { countTwice, pendingOf } from "../drain.ts"
import { type Measure, percentile } from "../harness.ts"

/**
 * D: from creation to execution while runs keep coming for ten seconds (a short run: five), 5,000 a second or half of what the system
 * can drain if that is less; a second before that warms up.
 */
export const load: Measure = {
  letter: "D",
  title: "Latency at 5,000 runs/s, or half of the drain rate if that is less, ms",
  needs: ["B"],
  rounds: { short: 1 },
  columns: [
    { figure: "target", title: "target/s" },
    { figure: "achieved", title: "achieved/s" },
    { figure: "p50", title: "p50", ratio: true, better: "less" },
    { figure: "p99", title: "p99", ratio: true, better: "less" },
    { figure: "backlog", title: "backlog at end" },
    { figure: "twice", title: "twice" },
    { figure: "lost", title: "lost" }
  ],
  suits: ({ name }) => name !== "pg-boss",
  short: ({ on }) => on === "postgres",
  run: async (cell) => {
    const seconds = cell.full ? 10 : 5
    const target = Math.round(Math.min(5000, (cell.earlier("B")?.rate ?? 10_000) / 2))
    const warm = target
    const count = warm + target * seconds
    const database = await cell.database()
    const [producer, worker] = await Promise.all([cell.child(database), cell.child(database)])
    await Promise.all([producer.call("open"), worker.call("work", { concurrency: 50, count })])
    await sleep(300)
    const achieved = await producer.call("stream", { count, rate: target })
    const backlog = await pendingOf(cell, database)
    for (let waited = 0; worker.executed() < count && waited < 15_000; waited += 10) await sleep(10)
    const report = await worker.call("report")
    const { never, twice } = countTwice([report], count)
    const latencies = report.latencies.subarray(warm)
    return { target, achieved, p50: percentile(latencies, 0.5), p99: percentile(latencies, 0.99), backlog, twice, lost: never }
  }
}
