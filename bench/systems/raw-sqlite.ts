/**
 * The floor on SQLite: bare better-sqlite3 with prepared statements on the library's own tables, in batches of a hundred. It lets the
 * event loop go after each batch, as anything that lives in a process with others must. `full`: synchronous=FULL.
 */
import { setTimeout as sleep, setImmediate as yieldLoop } from "node:timers/promises"
import Sqlite from "better-sqlite3"
import type { Kind, Payload, System } from "../system.ts"
import { libraryTables } from "./runs.ts"
import { uuidv7 } from "./uuid.ts"

const batch = 100
const pollMillis = 5
const now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
const me = uuidv7()

const into = `
  INSERT INTO jobsd_runs (id, origin_id, occurrence, job, queue, state, priority, run_at, created_at, created_by, fence, errors, timeouts,
    crashes, max_errors, max_timeouts, max_crashes, timeout_ms, success_count, payload, payload_bytes, late)`
const values = (id: string, payload: string) =>
  `${id}, ${id}, 0, 'noop', 'default', 0, 5, ${now}, ${now}, '${me}', 0, 0, 0, 0, 3, 3, 2, 1800000, 0, ${payload}, length(${payload}), 0`

// one ordered index range per priority, as a claim must read them if future runs are not to cost anything
const due = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  .map(
    (priority) => `SELECT * FROM (
      SELECT id FROM jobsd_runs WHERE state = 0 AND queue = 'default' AND priority = ${priority} AND run_at <= ${now} AND job = 'noop'
      ORDER BY run_at, id LIMIT ${batch})`
  )
  .join(" UNION ALL ")
const claimSql = `
  UPDATE jobsd_runs
  SET state = 1, fence = fence + 1, owner = '${me}', claim_token = ?, claimed_at = ${now}, deadline_at = ${now} + timeout_ms + 30000
  WHERE id IN (SELECT id FROM (${due}) LIMIT ${batch})
  RETURNING id, payload`

const completeSql = `
  UPDATE jobsd_runs
  SET state = 2, finished_at = ${now}, unique_key = NULL, owner = NULL, deadline_at = NULL, errors = 0, timeouts = 0, success_count = 1,
    result = NULL, error = NULL, late = 0, started_at = ?, started_by = '${me}'
  WHERE id IN (SELECT value FROM json_each(?)) AND claim_token = ? AND state = 1`

export const make = (variant: string, on: Kind): System => {
  const open = (file: string) => {
    const database = new Sqlite(file, { timeout: 5000 })
    database.pragma("journal_mode = WAL")
    database.pragma(`synchronous = ${variant === "full" ? "FULL" : "NORMAL"}`)
    return database
  }
  return {
    ...libraryTables(on),

    producer: async (url) => {
      const database = open(url)
      const insert = database.prepare(`${into} VALUES (${values("@id", "@payload")})`)
      const insertAll = database.prepare(`${into} SELECT ${values("value ->> 'id'", "value ->> 'payload'")} FROM json_each(?)`)
      const row = (payload: Payload) => ({ id: uuidv7(), payload: JSON.stringify(payload) })
      return {
        each: async (next) => {
          for (let payload = next(); payload !== undefined; payload = next()) insert.run(row(payload))
        },
        bulk: async (payloads) => void insertAll.run(JSON.stringify(payloads.map(row))),
        close: async () => void database.close()
      }
    },

    worker: async (url, { run }) => {
      const database = open(url)
      const claim = database.prepare<[string], { readonly id: string; readonly payload: string }>(claimSql)
      const complete = database.prepare(completeSql)
      let stopped = false
      const loop = async () => {
        while (!stopped) {
          const token = uuidv7()
          const rows = claim.all(token)
          if (rows.length === 0) {
            await sleep(pollMillis)
            continue
          }
          const startedAt = Date.now()
          for (const { payload } of rows) {
            const done = run(JSON.parse(payload))
            if (done !== undefined) await done
          }
          complete.run(startedAt, JSON.stringify(rows.map(({ id }) => id)), token)
          await yieldLoop()
        }
      }
      const ended = loop()
      return {
        stop: async () => {
          stopped = true
          await ended
          database.close()
        }
      }
    }
  }
}
