/** What is due, and taking it. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import { State } from "../../lifecycle.js"
import { type ClaimedRun, claimColumns, claimedRun, number } from "../runRow.js"
import type { Statement } from "../statement.js"
import { type Asker, knownCondition, valuesOf } from "./context.js"

export interface Claim {
  readonly claim: (queue: string, limit: number, token: string) => Effect.Effect<ReadonlyArray<ClaimedRun>, StorageError>
  /** how long until the next run of a known job is due, per queue; not positive: it is due. No entry: nothing waits. */
  readonly nextDue: Effect.Effect<ReadonlyMap<string, number>, StorageError>
}

export const make = ({ database, known: jobsAndSchedules, leaseMillis, me, queues }: Asker): Claim => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { instances, runs } = tables
  const known = knownCondition(jobsAndSchedules)

  const claimSql = {
    known: known.sql,
    set: `state = ${State.running}, fence = r.fence + 1, owner = :me, claim_token = :token, claimed_at = ${now},
      deadline_at = ${now} + r.timeout_ms + ${dialect.big(":lease")}`,
    alive: `EXISTS (SELECT 1 FROM ${instances} i WHERE i.id = :me AND i.state = 0 AND i.lease_until >= ${now})`,
    columns: claimColumns
  }
  const claimTexts = new Map<number, Statement>()
  const claimStatement = (limit: number) => {
    const text = claimTexts.get(limit) ?? statement(dialect.claim(tables, { ...claimSql, limit: dialect.limit(limit) }))
    claimTexts.set(limit, text)
    return text
  }
  const selectClaimed = statement(`
    SELECT ${claimColumns.join(", ")} FROM ${runs}
    WHERE owner = :me AND claim_token = :token AND state = ${State.running}`)

  const claim: Claim["claim"] = (queue, asked, token) => {
    // a text per limit: few of them, so that they stay prepared
    const limit = asked <= 32 ? asked : asked - (asked % 32)
    const values = { queue, me, token, lease: leaseMillis, ...known.values }
    return Effect.map(
      database.write("claim runs", (session) =>
        dialect.returning
          ? session.rows(claimStatement(limit), values)
          : Effect.flatMap(session.affected(claimStatement(limit), values), (claimed) =>
              claimed === 0 ? Effect.succeed([]) : session.rows(selectClaimed, { me, token })
            )
      ),
      (rows) => rows.map(claimedRun).sort(byPriority)
    )
  }

  // one index probe per queue and priority: what is due and when the next one is, whatever waits behind it
  const selectNextDue = statement(
    queues
      .flatMap((_, q) =>
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(
          (priority) => `
      SELECT * FROM (
        SELECT ${q} AS queue, run_at - ${now} AS wait FROM ${runs} ${dialect.useClaimIndex(tables)}
        WHERE state = ${State.ready} AND queue = :queue${q} AND priority = ${priority} ${known.sql}
        ORDER BY run_at
        LIMIT 1
      ) q${q}p${priority}`
        )
      )
      .join(" UNION ALL ")
  )
  const nextDueValues = { ...valuesOf("queue", queues), ...known.values }
  const nextDue: Claim["nextDue"] = Effect.map(
    database.read("look for due runs", (session) => session.rows(selectNextDue, nextDueValues)),
    (rows) => {
      const waits = new Map<string, number>()
      for (const row of rows) {
        const queue = queues[number(row.queue)]!
        waits.set(queue, Math.min(waits.get(queue) ?? Number.POSITIVE_INFINITY, number(row.wait)))
      }
      return waits
    }
  )

  return { claim, nextDue }
}

const byPriority = (a: ClaimedRun, b: ClaimedRun) => a.priority - b.priority || a.runAt - b.runAt || (a.id < b.id ? -1 : 1)
