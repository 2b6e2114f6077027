/**
 * The floor on PostgreSQL: bare `pg` with prepared statements on the library's own tables, in batches of a hundred. It does what any
 * queue must do to a row and nothing else: no retries, no leases, no schemas. Finished rows are kept, as ours are.
 */
import { setTimeout as sleep } from "node:timers/promises"
import pg from "pg"
import type { Kind, Payload, System } from "../system.ts"
import { libraryTables } from "./runs.ts"
import { uuidv7 } from "./uuid.ts"

const batch = 100
const now = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
const me = uuidv7()

export const insert = `
  INSERT INTO jobsd_runs (id, origin_id, occurrence, job, queue, state, priority, run_at, created_at, created_by, fence, errors, timeouts,
    crashes, max_errors, max_timeouts, max_crashes, timeout_ms, success_count, payload, payload_bytes, late)
  SELECT d.id, d.id, 0, 'noop', 'default', 0, 5, ${now}, ${now}, '${me}', 0, 0, 0, 0, 3, 3, 2, 1800000, 0, d.payload, length(d.payload), 0
  FROM unnest($1::uuid[], $2::text[]) AS d(id, payload)`
const insertAndNotify = `WITH new AS (${insert} RETURNING 1) SELECT pg_notify('bench', '')`

// one ordered index range per priority, as a claim must read them if future runs are not to cost anything
export const claim = `
  WITH due AS MATERIALIZED (
    SELECT c.id FROM generate_series(0, 9) AS p(priority) CROSS JOIN LATERAL (
      SELECT id FROM jobsd_runs
      WHERE state = 0 AND queue = 'default' AND priority = p.priority AND run_at <= ${now} AND job = 'noop'
      ORDER BY run_at, id LIMIT ${batch} FOR UPDATE SKIP LOCKED
    ) c LIMIT ${batch}
  )
  UPDATE jobsd_runs r
  SET state = 1, fence = r.fence + 1, owner = '${me}', claim_token = $1, claimed_at = ${now}, deadline_at = ${now} + r.timeout_ms + 30000
  FROM due WHERE r.id = due.id
  RETURNING r.id, r.payload`

export const complete = `
  UPDATE jobsd_runs
  SET state = 2, finished_at = ${now}, unique_key = NULL, owner = NULL, deadline_at = NULL, errors = 0, timeouts = 0, success_count = 1,
    result = NULL, error = NULL, late = 0, started_at = $3, started_by = '${me}'
  WHERE id = ANY($1::uuid[]) AND claim_token = $2 AND state = 1`

export const make = (variant: string, on: Kind): System => {
  const notifies = variant !== "poll"
  const pool = (url: string) => {
    const connections = new pg.Pool({ connectionString: url, max: 10 })
    connections.on("error", () => {})
    return connections
  }
  return {
    ...libraryTables(on),

    producer: async (url) => {
      const connections = pool(url)
      const text = notifies ? insertAndNotify : insert
      const create = (payloads: ReadonlyArray<Payload>) =>
        connections.query({
          name: "insert",
          text,
          values: [payloads.map(uuidv7), payloads.map((payload) => JSON.stringify(payload))]
        })
      return {
        each: async (next) => {
          for (let payload = next(); payload !== undefined; payload = next()) await create([payload])
        },
        bulk: async (payloads) => void (await create(payloads)),
        close: () => connections.end()
      }
    },

    worker: async (url, { concurrency, run }) => {
      const connections = pool(url)
      let stopped = false
      const sleepers = new Set<() => void>()
      const wakeOne = () => {
        const [first] = sleepers
        first?.()
      }
      const awoken = (millis: number) =>
        new Promise<void>((resolve) => {
          const wake = () => {
            clearTimeout(timer)
            sleepers.delete(wake)
            resolve()
          }
          const timer = setTimeout(wake, millis)
          sleepers.add(wake)
        })

      const loop = async () => {
        while (!stopped) {
          const token = uuidv7()
          const { rows } = await connections.query({ name: "claim", text: claim, values: [token] })
          if (rows.length === 0) {
            await awoken(notifies ? 2000 : 50)
            continue
          }
          if (rows.length === batch) wakeOne()
          const startedAt = Date.now()
          for (const { payload } of rows) {
            const done = run(JSON.parse(payload))
            if (done !== undefined) await done
          }
          await connections.query({ name: "complete", text: complete, values: [rows.map(({ id }) => id), token, startedAt] })
        }
      }

      const listener = new pg.Client(url)
      listener.on("error", () => {})
      if (notifies) {
        await listener.connect()
        listener.on("notification", wakeOne)
        await listener.query("LISTEN bench")
      }
      const loops = Array.from({ length: concurrency < 50 ? 2 : 4 }, loop)
      return {
        stop: async () => {
          stopped = true
          for (const wake of sleepers) wake()
          await Promise.all(loops)
          await sleep(0)
          if (notifies) await listener.end()
          await connections.end()
        }
      }
    }
  }
}
