/** Runs of dead holders, and overdue ones: back to ready, by whoever sees them first. */
import * as Effect from "effect/Effect"
import type { StorageError } from "../../../JobsdError.js"
import { State } from "../../lifecycle.js"
import type { ColumnType } from "../dialect.js"
import { attemptOf, number, numberOrNull, string, stringOrNull } from "../runRow.js"
import type { Statement } from "../statement.js"
import { type Asker, attemptColumns, counted, json, orAbsent, putBack, risen } from "./context.js"

export interface Sweep {
  /**
   * Declares instances dead, if the database's clock can be believed, and puts back the runs of the dead and the overdue; returns
   * how many.
   */
  readonly sweep: (leaseMillis: number, believes: (now: number) => boolean) => Effect.Effect<number, StorageError>
}

/** How many runs one transaction puts back at most. */
const sweepBatch = 100

export const make = ({ database }: Asker): Sweep => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { attempts, instances, runs } = tables

  const orphaned = `r.state = ${State.running} AND NOT EXISTS (SELECT 1 FROM ${instances} i WHERE i.id = r.owner AND i.state IN (0, 1))`
  const overdue = `r.state = ${State.running} AND r.deadline_at < ${now} - ${dialect.big(":lease")}`
  const expired = `i.state IN (0, 1) AND i.lease_until < ${now}`

  // an idle sweep is this one statement
  const selectTrouble = statement(`
    SELECT ${now} AS now,
           (SELECT COUNT(*) FROM ${instances} i WHERE ${expired}) AS expired,
           (SELECT COUNT(*) FROM ${runs} r WHERE ${orphaned}) AS orphaned,
           (SELECT COUNT(*) FROM ${runs} r WHERE ${overdue}) AS overdue`)

  const declareDead = statement(`
    UPDATE ${instances} AS i
    SET state = 3
    WHERE ${expired}`)

  // the oldest first: an order by id would be had from the primary key, by reading all runs there are
  const lockTroubled = (condition: string) =>
    statement(`
      SELECT r.id, r.fence, r.errors, r.timeouts, r.crashes, r.claimed_at, r.owner FROM ${runs} r
      WHERE ${condition}
      ORDER BY r.claimed_at
      LIMIT ${sweepBatch}
      ${dialect.skipLockedRuns}`)
  const lockOrphaned = lockTroubled(orphaned)
  const lockOverdue = lockTroubled(overdue)

  const takenBackColumns = { run_id: "id", fence: "big", claimed_at: "big", owner: "id" } satisfies { [column: string]: ColumnType }
  const takeBack = (counter: "crashes" | "timeouts", isSuspect: string) =>
    statement(
      dialect.updateFrom({
        table: runs,
        rows: dialect.rows(":rows", takenBackColumns),
        set: {
          ...putBack(now, "r.", isSuspect),
          first_due_at: "COALESCE(r.first_due_at, r.run_at)",
          run_at: now,
          fence: risen("r.fence"),
          [counter]: counted(`r.${counter}`),
          started_at: "d.claimed_at",
          started_by: "d.owner"
        },
        on: "r.id = d.run_id",
        where: `r.fence = d.fence AND r.state = ${State.running}`
      })
    )
  const putBackCrashed = takeBack("crashes", "1 = 1")
  const putBackOverdue = takeBack("timeouts", "r.crashes > 0")

  const sweepAttemptColumns = { ...attemptColumns, instance: "id" } satisfies { [column: string]: ColumnType }
  const insertSweptAttempts = statement(`
    INSERT INTO ${attempts} (run_id, fence, attempt, started_at, ended_at, instance, outcome, error)
    SELECT d.run_id, d.fence, d.attempt, d.started_at, ${now}, d.instance, d.outcome, d.error
    FROM ${dialect.rows(":rows", sweepAttemptColumns)}
    WHERE 1 = 1 ${dialect.orKeep(attempts, "run_id")}`)

  const rescue = (lock: Statement, back: Statement, outcome: "crash" | "timeout", lease: number) =>
    database.transact("rescue runs", (session) =>
      Effect.gen(function* () {
        const troubled = yield* session.rows(lock, { lease })
        if (troubled.length === 0) return 0
        yield* session.affected(insertSweptAttempts, {
          rows: json(
            troubled.map((row) => ({
              run_id: string(row.id),
              fence: number(row.fence),
              attempt: attemptOf({ errors: number(row.errors), timeouts: number(row.timeouts), crashes: number(row.crashes) }),
              started_at: orAbsent(numberOrNull(row.claimed_at)),
              instance: orAbsent(stringOrNull(row.owner)),
              outcome,
              error: outcome === "crash" ? "the instance that ran it died" : "it ran over its time, and its instance did not stop it"
            }))
          )
        })
        yield* session.affected(back, {
          rows: json(
            troubled.map((row) => ({
              run_id: string(row.id),
              fence: number(row.fence),
              claimed_at: orAbsent(numberOrNull(row.claimed_at)),
              owner: orAbsent(stringOrNull(row.owner))
            }))
          )
        })
        return troubled.length
      })
    )

  const rescueAll = (...[lock, back, outcome, lease]: Parameters<typeof rescue>) =>
    Effect.iterate(
      { total: 0, last: sweepBatch },
      {
        while: ({ last }) => last === sweepBatch,
        body: ({ total }) => Effect.map(rescue(lock, back, outcome, lease), (last) => ({ total: total + last, last }))
      }
    ).pipe(Effect.map(({ total }) => total))

  const sweep: Sweep["sweep"] = (lease, believes) =>
    Effect.gen(function* () {
      const trouble = (yield* database.read("look for dead instances", (session) => session.rows(selectTrouble, { lease })))[0]!
      const mayDeclare = believes(number(trouble.now))
      if (mayDeclare && number(trouble.expired) > 0) {
        yield* database.write("declare instances dead", (session) => session.affected(declareDead, {}))
      }
      let rescued = 0
      if (number(trouble.expired) + number(trouble.orphaned) > 0) {
        rescued += yield* rescueAll(lockOrphaned, putBackCrashed, "crash", lease)
      }
      if (mayDeclare && number(trouble.overdue) > 0) {
        rescued += yield* rescueAll(lockOverdue, putBackOverdue, "timeout", lease)
      }
      return rescued
    })

  return { sweep }
}
