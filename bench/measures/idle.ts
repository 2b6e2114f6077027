import { setTimeout as sleep } from "node:timers/promises"
import type { Measure } from "../harness.ts"

/**
 * F: what a worker with nothing to do costs, per minute, once it has had nothing to do for a while. A short run looks for 15 seconds,
 * and misses what happens once a minute.
 */
export const idle: Measure = {
  letter: "F",
  title: "Idle worker at concurrency 10, per minute",
  rounds: { short: 1, full: 1 },
  together: true,
  columns: [
    { figure: "statements", title: "statements" },
    { figure: "transactions", title: "transactions" },
    { figure: "cpu", title: "CPU s" },
    { figure: "rss", title: "RSS MB" }
  ],
  suits: () => true,
  // the servers that only count as a whole take one after the other
  short: ({ name, on }) => on !== "mariadb" || name === "jobsd",
  run: async (cell) => {
    const seconds = cell.full ? 60 : 15
    const database = await cell.database()
    const worker = await cell.child(database)
    await worker.call("work", { concurrency: 10, count: 0, ticking: false })
    await sleep(11_000)
    const before = await cell.server.counters(database)
    const { cpu } = await worker.call("report")
    await sleep(seconds * 1000)
    const after = await cell.server.counters(database)
    const report = await worker.call("report")
    const perMinute = (from: number | null, to: number | null) => (from === null || to === null ? null : ((to - from) * 60) / seconds)
    return {
      statements: perMinute(before.statements, after.statements),
      transactions: perMinute(before.transactions, after.transactions),
      cpu: perMinute(cpu / 1e6, report.cpu / 1e6),
      rss: report.rss / 1e6
    }
  }
}
