/** pg-boss: as it comes, and `batch`, with notifications and handlers that take whole batches: its best here. */
import { PgBoss } from "pg-boss"
import type { Kind, Payload, System } from "../system.ts"

const open = async (url: string, options: { readonly listens: boolean; readonly works: boolean; readonly migrates?: boolean }) => {
  const boss = new PgBoss({
    connectionString: url,
    useListenNotify: options.listens,
    migrate: options.migrates ?? false,
    ...(options.works ? {} : { supervise: false, schedule: false })
  })
  boss.on("error", console.error)
  await boss.start()
  return boss
}

const close = (boss: PgBoss) => boss.stop({ graceful: true, timeout: 5000 })

export const make = (variant: string, _: Kind): System => {
  const batched = variant === "batch"
  return {
    prepare: async (url) => {
      const boss = await open(url, { listens: false, works: false, migrates: true })
      await boss.createQueue("noop", { notify: batched })
      await boss.createQueue("elsewhere")
      await close(boss)
    },

    producer: async (url) => {
      const boss = await open(url, { listens: false, works: false })
      return {
        each: async (next) => {
          for (let payload = next(); payload !== undefined; payload = next()) await boss.send("noop", payload)
        },
        bulk: async (payloads) =>
          void (await boss.insert(
            "noop",
            payloads.map((data) => ({ data }))
          )),
        close: () => close(boss)
      }
    },

    worker: async (url, { concurrency, run }) => {
      const boss = await open(url, { listens: batched, works: true })
      const options = batched
        ? { batchSize: concurrency < 50 ? 100 : 500, localConcurrency: 2, burstWhenBatchFull: true }
        : { localConcurrency: concurrency }
      await boss.work<Payload>("noop", options, async (jobs) => {
        for (const { data } of jobs) {
          const done = run(data)
          if (done !== undefined) await done
        }
      })
      return { stop: () => close(boss) }
    },

    pending: "SELECT count(*) AS pending FROM pgboss.job WHERE name = 'noop' AND state < 'completed' AND start_after <= now()",
    analyze: "VACUUM ANALYZE",
    fill: {
      finished: [
        `INSERT INTO pgboss.job (name, data, state, created_on, started_on, completed_on)
         SELECT 'noop', '{"id":-1,"at":0}', 'completed', now() - interval '1 hour', now() - interval '1 hour', now() - interval '1 hour'
         FROM generate_series(1, 500000)`
      ],
      future: [
        `INSERT INTO pgboss.job (name, data, start_after, priority)
         SELECT 'noop', '{"id":-1,"at":0}', now() + interval '1 hour', n % 10 FROM generate_series(1, 200000) AS s(n)`
      ],
      elsewhere: [
        `INSERT INTO pgboss.job (name, data) SELECT 'elsewhere', '{"id":-1,"at":0}' FROM generate_series(1, 100000)`
      ]
    }
  }
}
