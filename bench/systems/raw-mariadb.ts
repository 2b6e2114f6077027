/**
 * The floor on MariaDB: bare `mysql2` with prepared statements on the library's own tables, in batches of a hundred, READ COMMITTED,
 * polling every twenty milliseconds while there is nothing to do. Even bare statements by primary key can deadlock with inserts, so
 * it tries again.
 */
import { setTimeout as sleep } from "node:timers/promises"
import mysql from "mysql2/promise"
import type { Kind, Payload, System } from "../system.ts"
import { libraryTables } from "./runs.ts"
import { uuidv7 } from "./uuid.ts"

const batch = 100
const pollMillis = 20
const now = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)"
const me = uuidv7()

const into = `
  INSERT INTO jobsd_runs (id, origin_id, occurrence, job, queue, state, priority, run_at, created_at, created_by, fence, errors, timeouts,
    crashes, max_errors, max_timeouts, max_crashes, timeout_ms, success_count, payload, payload_bytes, late)`
const values = (id: string, payload: string) =>
  `${id}, ${id}, 0, 'noop', 'default', 0, 5, ${now}, ${now}, '${me}', 0, 0, 0, 0, 3, 3, 2, 1800000, 0, ${payload}, LENGTH(${payload}), 0`
const insert = `${into} SELECT ${values("d.id", "d.payload")} FROM (SELECT ? AS id, ? AS payload) AS d`
const insertAll = `${into} SELECT ${values("d.id", "d.payload")} FROM JSON_TABLE(?, '$[*]' COLUMNS (
  id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$.id', payload LONGTEXT PATH '$.payload')) AS d`

// It knows that its runs have one priority. With all ten in a list, which a claim needs that does not know, it drains an otherwise empty
// table at two thirds of this rate (6.2k and 9.6k runs/s): its looks for runs of the five priorities before go on through all that was
// claimed and is not purged yet. Other runs of those priorities, due later, shorten them: it was 1.5 times as fast beside them.
const claim = `
  UPDATE jobsd_runs r
  JOIN (
    SELECT id FROM jobsd_runs FORCE INDEX (jobsd_runs_claim)
    WHERE state = 0 AND queue = 'default' AND priority = 5 AND run_at <= ${now} AND job = 'noop'
    ORDER BY run_at, id LIMIT ${batch} FOR UPDATE SKIP LOCKED
  ) due ON due.id = r.id
  SET r.state = 1, r.fence = r.fence + 1, r.owner = '${me}', r.claim_token = ?, r.claimed_at = ${now},
    r.deadline_at = ${now} + r.timeout_ms + 30000`
// the index is named, for else the whole of a small table is read
const claimed = `SELECT id, payload FROM jobsd_runs FORCE INDEX (jobsd_runs_owned) WHERE owner = '${me}' AND claim_token = ? AND state = 1`
const complete = `
  UPDATE jobsd_runs r JOIN JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$')) d ON d.id = r.id
  SET r.state = 2, r.finished_at = ${now}, r.unique_key = NULL, r.owner = NULL, r.deadline_at = NULL, r.errors = 0, r.timeouts = 0,
    r.success_count = 1, r.result = NULL, r.error = NULL, r.late = 0, r.started_at = ?, r.started_by = '${me}'
  WHERE r.claim_token = ? AND r.state = 1`

const contended = (error: unknown) => [1205, 1213].includes((error as { readonly errno?: number }).errno ?? 0)

export const make = (_: string, on: Kind): System => {
  const connect = (url: string) => {
    const pool = mysql.createPool({ uri: url, connectionLimit: 10 })
    pool.on("connection", (connection) => void connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    const execute = async <T extends mysql.QueryResult>(sql: string, parameters: ReadonlyArray<string | number>) => {
      for (;;) {
        try {
          return (await pool.execute<T>(sql, [...parameters]))[0]
        } catch (error) {
          if (!contended(error)) throw error
        }
      }
    }
    return { execute, end: () => pool.end() }
  }
  return {
    ...libraryTables(on),

    producer: async (url) => {
      const { end, execute } = connect(url)
      const row = (payload: Payload) => ({ id: uuidv7(), payload: JSON.stringify(payload) })
      return {
        each: async (next) => {
          for (let payload = next(); payload !== undefined; payload = next()) await execute(insert, [uuidv7(), JSON.stringify(payload)])
        },
        bulk: async (payloads) => void (await execute(insertAll, [JSON.stringify(payloads.map(row))])),
        close: end
      }
    },

    worker: async (url, { concurrency, run }) => {
      const { end, execute } = connect(url)
      let stopped = false
      const loop = async () => {
        while (!stopped) {
          const token = uuidv7()
          const { affectedRows } = await execute<mysql.ResultSetHeader>(claim, [token])
          if (affectedRows === 0) {
            await sleep(pollMillis)
            continue
          }
          const rows = await execute<Array<mysql.RowDataPacket>>(claimed, [token])
          const startedAt = Date.now()
          for (const { payload } of rows) {
            const done = run(JSON.parse(payload))
            if (done !== undefined) await done
          }
          await execute(complete, [JSON.stringify(rows.map(({ id }) => id)), startedAt, token])
        }
      }
      const loops = Array.from({ length: concurrency < 50 ? 2 : 4 }, loop)
      return {
        stop: async () => {
          stopped = true
          await Promise.all(loops)
          await end()
        }
      }
    }
  }
}
