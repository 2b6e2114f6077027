/** graphile-worker: as it comes, and `batch`, with a local queue and completions in batches: its best here. */
import { Logger, makeWorkerUtils, runMigrations, run as runWorker } from "graphile-worker"
import type { Kind, Payload, System } from "../system.ts"

const logger = new Logger(() => (level, message) => {
  if (level === "error") console.error(message)
})

const presets = {
  "": {},
  batch: {
    worker: {
      maxPoolSize: 12,
      completeJobBatchDelay: 0,
      localQueue: { size: 500, refetchDelay: { durationMs: 10 } }
    }
  }
}

export const make = (variant: string, _: Kind): System => ({
  prepare: async (url) => {
    await runMigrations({ connectionString: url, logger })
  },

  producer: async (url) => {
    const utils = await makeWorkerUtils({ connectionString: url, logger, maxPoolSize: 10 })
    return {
      each: async (next) => {
        for (let payload = next(); payload !== undefined; payload = next()) await utils.addJob("noop", payload)
      },
      bulk: async (payloads) => void (await utils.addJobs(payloads.map((payload) => ({ identifier: "noop", payload })))),
      close: async () => utils.release()
    }
  },

  worker: async (url, { concurrency, run }) => {
    const runner = await runWorker({
      connectionString: url,
      logger,
      preset: presets[variant as keyof typeof presets],
      concurrency,
      noHandleSignals: true,
      taskList: { noop: (payload) => run(payload as Payload) }
    })
    return { stop: () => runner.stop() }
  },

  // it deletes what has succeeded
  pending:
    "SELECT count(*) AS pending FROM graphile_worker._private_jobs WHERE run_at <= now() AND task_id = (SELECT id FROM graphile_worker._private_tasks WHERE identifier = 'noop')",
  analyze: "VACUUM ANALYZE graphile_worker._private_jobs",
  fill: {
    unknown: [
      "INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('unknown') ON CONFLICT DO NOTHING",
      `INSERT INTO graphile_worker._private_jobs (task_id, payload)
       SELECT t.id, '{"id":-1,"at":0}' FROM graphile_worker._private_tasks t, generate_series(0, 99999) WHERE t.identifier = 'unknown'`
    ],
    future: [
      "INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('noop') ON CONFLICT DO NOTHING",
      `INSERT INTO graphile_worker._private_jobs (task_id, payload, run_at, priority)
       SELECT t.id, '{"id":-1,"at":0}', now() + interval '1 hour', n % 10
       FROM graphile_worker._private_tasks t, generate_series(0, 199999) AS s(n) WHERE t.identifier = 'noop'`
    ]
  }
})
