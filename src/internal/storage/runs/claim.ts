/** What is due, and taking it. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import { lastMoment, priorities, State } from "../../lifecycle.js"
import { type Database, once, patient } from "../database.js"
import { type ClaimedRun, claimColumns, claimedRuns, claimTypes, number } from "../runRow.js"
import type { Session } from "../session.js"
import { type Condition, type Kept, type Statement, valuesOf } from "../statement.js"
import { type Asker, knownCondition, risen } from "./context.js"

type Claimable = typeof State.ready | typeof State.suspect

/** Milliseconds until the next run is due; not positive: it is due; infinite: nothing waits. */
export interface Waits {
  readonly ready: number
  readonly suspect: number
}

/** So many runs are claimed without much ado. */
const few = 32

/** What was claimed, and whether there may be more. */
export interface Claimed {
  readonly runs: ReadonlyArray<ClaimedRun>
  readonly full: boolean
}

export interface Claim {
  /** takes due runs of a queue, at most so many, in order; suspects are asked for by themselves */
  readonly claim: (queue: string, state: Claimable, limit: number, token: string) => Effect.Effect<Claimed, StorageError>
  /** how long until the next run of a known job is due, per queue */
  readonly nextDue: Effect.Effect<ReadonlyMap<string, Waits>, StorageError>
}

const claimKept = (
  { dialect, tables }: Pick<Database, "dialect" | "tables">,
  known: Condition,
  claim: { readonly state: Claimable; readonly limit: string; readonly from: number }
): Kept => {
  const { now } = dialect
  const parameters = { me: "id", token: "id", lease: "big", queue: "name", jobs: "name[]", schedules: "name[]", limit: "int" } as const
  return {
    name: `${tables.prefix}_claim_${claim.state === State.ready ? "runs" : "suspects"}`,
    isPlain: false,
    parameters,
    source: dialect.claim(tables, {
      ...claim,
      known: known.sql,
      set: `state = ${State.running}, fence = ${risen("r.fence")}, owner = :me, claim_token = :token, claimed_at = ${now},
        deadline_at = CASE WHEN r.timeout_ms < ${lastMoment} THEN ${now} + r.timeout_ms + ${dialect.big(":lease")} END`,
      alive: `EXISTS (SELECT 1 FROM ${tables.instances} i WHERE i.id = :me AND i.state = 0 AND i.lease_until >= ${now})`,
      columns: claimColumns(dialect)
    }),
    returns: claimTypes
  }
}

/** What a server that keeps statements is to keep: the same for every instance, whatever it knows. */
export const claimsKept = (database: Pick<Database, "dialect" | "tables">): ReadonlyArray<Kept> =>
  ([State.ready, State.suspect] as const).map((state) =>
    claimKept(database, knownCondition(database.dialect, { jobs: [], schedules: [] }), { state, limit: "LIMIT :limit", from: 0 })
  )

export const make = ({ database, known: jobsAndSchedules, leaseMillis, me, queues }: Asker): Claim => {
  const { dialect, kept, statement, tables } = database
  const { now } = dialect
  const { runs } = tables
  const known = knownCondition(dialect, jobsAndSchedules)

  const claimTexts = new Map<string, Statement>()
  const claimStatement = (state: Claimable, rows: number, from: number) => {
    const limit = dialect.keep === null ? dialect.limit(rows) : "LIMIT :limit"
    const key = `${state} ${limit} ${from}`
    const text = claimTexts.get(key) ?? statement(kept(claimKept(database, known, { state, limit, from })))
    claimTexts.set(key, text)
    return text
  }
  // The index is named: MariaDB reads the whole table where a tenth of it runs, as in a new one that is being drained (20,000 rows for 500
  // in every third claim).
  const selectClaimed = statement(`
    SELECT ${claimColumns(dialect)("")} FROM ${runs} ${dialect.useIndex(tables, "owned")}
    WHERE owner = :me AND claim_token = :token AND state = ${State.running}`)

  // the last that is due of each: the first would be behind what was taken lately
  const selectFirst = statement(`
    SELECT COALESCE(${priorities
      .map(
        (priority) => `(
      SELECT priority FROM ${runs} ${dialect.useIndex(tables, "claim")}
      WHERE state = ${State.ready} AND queue = :queue AND priority = ${priority} AND run_at <= ${now}
      ORDER BY run_at DESC
      LIMIT 1)`
      )
      .join(", ")}) AS priority`)

  // a claim or a look that hangs holds up all that follow, and what is claimed must be known, or given up, before the lease is over
  const tryMillis = Math.min(once.tryMillis, leaseMillis / 3)
  const patience = { ...once, tryMillis }
  const firstDue = (queue: string) =>
    Effect.map(
      database.read("look for the first priority", (session) => session.rows(selectFirst, { queue }), patience),
      ([row]) => (row!.priority === null ? null : number(row!.priority))
    )
  const claim: Claim["claim"] = (queue, state, asked, token) => {
    // where it takes a text for each: few of them, so that they stay prepared
    const limit = dialect.keep !== null || asked <= few ? asked : asked - (asked % few)
    const values = { queue, me, token, lease: leaseMillis, limit, ...known.values }
    const byToken = (session: Session) => session.rows(selectClaimed, { me, token })
    const claimed = (from: number) => {
      const mark = claimStatement(state, limit, from)
      const use = (session: Session) =>
        dialect.returning
          ? session.rows(mark, values)
          : Effect.flatMap(session.affected(mark, values), (marked) => (marked === 0 ? Effect.succeed([]) : byToken(session)))
      return Effect.catchIf(
        database.writeMany("claim runs", limit, use, patience),
        // The answer was lost. A repeat would claim as many again: what has our token is what was claimed.
        (error) => error.reason === "ambiguous",
        () => database.read("look for claimed runs", byToken, patience)
      )
    }
    const rows =
      dialect.asksWhereToBegin && state === State.ready && limit > few
        ? Effect.flatMap(firstDue(queue), (first) => (first === null ? Effect.succeed([]) : claimed(first)))
        : claimed(priorities[0]!)
    return Effect.map(rows, (rows) => ({ runs: claimedRuns(rows, queue, token).sort(byPriority), full: rows.length >= limit }))
  }

  // one index probe per queue and priority: what is due and when the next one is, whatever waits behind it
  const firstOf = (name: string, queue: number, state: State, condition: string) => `
    SELECT * FROM (
      SELECT ${queue} AS queue, ${state} AS state, run_at - ${now} AS wait FROM ${runs} ${dialect.useIndex(tables, "claim")}
      WHERE state = ${state} AND queue = :queue${queue} ${condition} ${known.sql}
      ORDER BY run_at
      LIMIT 1
    ) ${name}`
  const selectNextDue = statement(
    queues
      .flatMap((_, q) => [
        ...priorities.map((priority) => firstOf(`q${q}p${priority}`, q, State.ready, `AND priority = ${priority}`)),
        firstOf(`q${q}s`, q, State.suspect, "")
      ])
      .join(" UNION ALL ")
  )
  const nextDueValues = { ...valuesOf("queue", queues), ...known.values }
  const nextDue: Claim["nextDue"] = Effect.map(
    database.read("look for due runs", (session) => session.rows(selectNextDue, nextDueValues), { ...patient, tryMillis }),
    (rows) => {
      const waits = new Map(queues.map((queue) => [queue, { ready: Number.POSITIVE_INFINITY, suspect: Number.POSITIVE_INFINITY }]))
      for (const row of rows) {
        const found = waits.get(queues[number(row.queue)]!)!
        const kind = number(row.state) === State.ready ? "ready" : "suspect"
        found[kind] = Math.min(found[kind], number(row.wait))
      }
      return waits
    }
  )

  return { claim, nextDue }
}

const byPriority = (a: ClaimedRun, b: ClaimedRun) => a.priority - b.priority || a.runAt - b.runAt || (a.id < b.id ? -1 : 1)
