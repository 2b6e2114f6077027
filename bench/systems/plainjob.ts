/** plainjob: `concurrency` workers in one process, polling every second as it comes; `poll10`: every ten milliseconds. */
import Sqlite from "better-sqlite3"
import { better, defineQueue, defineWorker } from "plainjob"
import type { Kind, Payload, System } from "../system.ts"

const quiet = { error: console.error, warn: () => {}, info: () => {}, debug: () => {} }

const open = (file: string) => {
  const database = new Sqlite(file, { timeout: 5000 })
  const queue = defineQueue({ connection: better(database), logger: quiet })
  return {
    queue,
    close: async () => {
      queue.close()
      if (database.open) database.close()
    }
  }
}

const rows = (count: number, type: string, status: number, nextRunAt: string) => [
  `INSERT INTO plainjob_jobs (type, data, status, next_run_at, created_at)
   WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < ${count - 1})
   SELECT ${type}, '{"id":-1,"at":0}', ${status}, ${nextRunAt}, 0 FROM c`
]

export const make = (variant: string, _: Kind): System => ({
  prepare: async (url) => open(url).close(),

  producer: async (url) => {
    const { close, queue } = open(url)
    return {
      each: async (next) => {
        for (let payload = next(); payload !== undefined; payload = next()) queue.add("noop", payload)
      },
      bulk: async (payloads) => void queue.addMany("noop", [...payloads]),
      close
    }
  },

  worker: async (url, { concurrency, run }) => {
    const { close, queue } = open(url)
    const workers = Array.from({ length: concurrency }, () =>
      defineWorker("noop", ({ data }) => run(JSON.parse(data) as Payload), {
        queue,
        logger: quiet,
        ...(variant === "poll10" ? { pollIntervall: 10 } : {})
      })
    )
    for (const worker of workers) worker.start().catch(console.error)
    return {
      stop: async () => {
        await Promise.all(workers.map((worker) => worker.stop()))
        await close()
      }
    }
  },

  pending: `SELECT count(*) AS pending FROM plainjob_jobs
    WHERE type = 'noop' AND status < 2 AND (next_run_at IS NULL OR next_run_at <= unixepoch('subsec') * 1000)`,
  analyze: "ANALYZE",
  fill: {
    finished: rows(500_000, "'noop'", 2, "0"),
    future: rows(200_000, "'noop'", 0, "(unixepoch() + 3600) * 1000 + n"),
    unknown: rows(100_000, "'unknown'", 0, "0")
  }
})
