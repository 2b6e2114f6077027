/** What can be said in SQL about the table of runs, which ours and the floor share: its tables are the library's own. */
import type { Kind, System } from "../system.ts"

/** as createRun would store them */
const columns = "max_errors, max_timeouts, max_crashes, timeout_ms, success_count, payload, payload_bytes, late"
const constants = `3, 3, 2, 1800000, 0, '{"id":-1,"at":0}', 16, 0`

// ids in the order in which the runs were made, before those of the runs that are drained, as a client's would be
const sqlOf = {
  postgres: {
    now: "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    uuid: "('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid",
    numbers: (count: number) => `generate_series(0, ${count - 1}) AS s(n)`,
    analyze: "VACUUM ANALYZE jobsd_runs"
  },
  mariadb: {
    now: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    uuid: "CONCAT('00000000-0000-7000-8000-', LPAD(LOWER(HEX(n)), 12, '0'))",
    numbers: (count: number) => `(SELECT seq AS n FROM seq_0_to_${count - 1}) AS s`,
    analyze: "ANALYZE TABLE jobsd_runs"
  },
  sqlite: {
    now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    uuid: "printf('00000000-0000-7000-8000-%012x', n)",
    numbers: (count: number) =>
      `(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < ${count - 1}) SELECT n FROM c) AS s`,
    analyze: "ANALYZE"
  }
}

export const libraryTables = (on: Kind): Pick<System, "analyze" | "fill" | "parked" | "pending" | "prepare"> => {
  const { analyze, now, numbers, uuid } = sqlOf[on as keyof typeof sqlOf]
  const rows = (
    count: number,
    {
      finishedAt = "NULL",
      job = "noop",
      priority = "5",
      queue = "default",
      runAt,
      state = 0
    }: {
      readonly job?: string
      readonly queue?: string
      readonly state?: number
      readonly priority?: string
      readonly runAt: string
      readonly finishedAt?: string
    }
  ) => [
    `INSERT INTO jobsd_runs (id, origin_id, occurrence, job, queue, state, priority, run_at, created_at, created_by, finished_at, fence,
       errors, timeouts, crashes, ${columns})
     SELECT id, id, 0, '${job}', '${queue}', ${state}, ${priority}, ${runAt}, ${runAt}, id, ${finishedAt}, 0, 0, 0, 0, ${constants}
     FROM (SELECT ${uuid} AS id, n FROM ${numbers(count)}) AS t`
  ]
  return {
    analyze,
    // loaded here alone: the floor's processes must not carry the library
    prepare: async (url) => (await import("./jobsd.ts")).migrate(on, url),
    // one probe of the claim index at the priority of the runs that are drained, and one of the few that are running
    pending: `SELECT (SELECT count(*) FROM jobsd_runs WHERE state = 0 AND queue = 'default' AND priority = 5 AND run_at <= ${now} AND job = 'noop')
      + (SELECT count(*) FROM jobsd_runs WHERE state = 1) AS pending`,
    parked: "SELECT count(*) AS parked FROM jobsd_runs WHERE state = 5",
    fill: {
      finished: rows(500_000, { state: 2, runAt: `${now} - 3600000`, finishedAt: `${now} - 3600000` }),
      future: rows(200_000, { runAt: `${now} + 3600000 + n`, priority: "n % 10" }),
      // older than what is drained, so that every claim meets them first, and old enough to be set aside
      unknown: rows(100_000, { job: "unknown", runAt: `${now} - 300000` }),
      elsewhere: rows(100_000, { queue: "elsewhere", runAt: `${now} - 60000` }),
      expired: rows(1_000_000, { state: 2, runAt: `${now} - 864000000`, finishedAt: `${now} - 864000000` }),
      later: rows(1_000_000, { runAt: `${now} + 3600000 + n`, priority: "n % 10" }),
      waiting: rows(1_000_000, { runAt: `${now} - 1000` })
    }
  }
}
