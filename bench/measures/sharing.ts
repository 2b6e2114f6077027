import { setTimeout as sleep } from "node:timers/promises"
import { countTwice } from "../drain.ts"
import type { Measure } from "../harness.ts"
import { now } from "../system.ts"

const instances = 10
const count = 30
const millis = 150

/** S: ten instances with a worker each wait; thirty runs of 150 ms come at once. Whoever takes more than it can start makes others idle. */
export const sharing: Measure = {
  letter: "S",
  title: "Ten instances with one worker each, 30 runs of 150 ms at once",
  rounds: { short: 1 },
  columns: [
    { figure: "sharedBy", title: "shared by" },
    { figure: "millis", title: "ms from creation to the last (ideal 450)" },
    { figure: "twice", title: "twice" },
    { figure: "lost", title: "lost" }
  ],
  suits: ({ name }) => name === "jobsd",
  run: async (cell) => {
    const database = await cell.database()
    const workers = await Promise.all(Array.from({ length: instances }, () => cell.child(database)))
    const producer = await cell.child(database)
    await producer.call("open")
    await Promise.all(workers.map((worker) => worker.call("work", { concurrency: 1, count, millis })))
    await sleep(1000)
    const start = now()
    await producer.call("bulk", { count })
    const executed = () => workers.reduce((sum, worker) => sum + worker.executed(), 0)
    while (executed() < count && now() - start < 30_000) await sleep(5)
    const end = now() + millis
    const reports = await Promise.all(workers.map((worker) => worker.call("report")))
    const { never, twice } = countTwice(reports, count)
    return { sharedBy: reports.filter((report) => report.executed > 0).length, millis: end - start, twice, lost: never }
  }
}
