/**
 * Does the suite notice? Each guard is taken out of the real statements, one at a time, and a story about it must then fail with an
 * assertion: not with an error of the database, which would only say that the mutant is no SQL.
 */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Cause, Chunk, Effect, Exit } from "effect"
import * as databases from "../../src/internal/storage/database.js"
import { dialectOf } from "../../src/internal/storage/dialect.js"
import { migrate } from "../../src/internal/storage/migrations.js"
import { type DatabaseName, onEveryDatabase } from "../support/databases.js"
import { only, type ScenarioName, scenarios } from "./mutationScenarios.js"
import { limit, report } from "./support/campaign.js"

/** A guard, and what is wrong without it. */
interface Mutation {
  readonly guard: string
  /** the database without the guard; says so each time that something had it */
  readonly without: (database: databases.Database, had: () => void) => databases.Database
  readonly killedBy: ScenarioName
  readonly on?: ReadonlyArray<DatabaseName>
}

const mutation = (
  guard: string,
  without: Mutation["without"],
  killedBy: ScenarioName,
  on: ReadonlyArray<DatabaseName> | undefined = only[killedBy]
): Mutation => ({ guard, without, killedBy, ...(on === undefined ? {} : { on }) })

const drop = (guard: string, statements: RegExp, find: RegExp, killedBy: ScenarioName, on?: ReadonlyArray<DatabaseName>): Mutation =>
  swap(guard, statements, find, "", killedBy, on)
/** which statements, by their source with its blanks made one, and what in it */
const swap = (
  guard: string,
  statements: RegExp,
  find: RegExp,
  replace: string,
  killedBy: ScenarioName,
  on?: ReadonlyArray<DatabaseName>
): Mutation =>
  mutation(
    guard,
    (database, had) => ({
      ...database,
      // what the server keeps was made without the mutation
      kept: ({ source }) => source,
      statement: (source) => {
        const text = source.replace(/\s+/g, " ").trim()
        if (!statements.test(text)) return database.statement(text)
        const without = text.replace(new RegExp(find.source, "g"), replace)
        if (without !== text) had()
        return database.statement(without)
      }
    }),
    killedBy,
    on
  )

const knownJob = /AND job (IN \(.*?\)|= ANY\(.*?\)) /

/** what a unique index says is taken for any other refusal */
const blind: Mutation["without"] = (database, had) => ({
  ...database,
  dialect: {
    ...database.dialect,
    failure: (error) => {
      const failure = database.dialect.failure(error)
      if (failure !== "unique") return failure
      had()
      return "rejected"
    }
  }
})

const unlocked: Mutation["without"] = (database, had) => {
  const { ddl } = database.dialect
  const migrationLock = () => {
    had()
    return { lock: null, unlock: null }
  }
  return { ...database, dialect: { ...database.dialect, ddl: { ...ddl, migrationLock } } }
}

const settle = /errors = d\.errors/
const settleLock = /^SELECT r\.id, r\.fence FROM .* = 1 FOR UPDATE/
const success = /^UPDATE(?!.* = d\.errors).* (r\.)?success_count = /
const settled = /^SELECT r\.id, r\.fence FROM .* r\.state <> 1/
const claim = /^UPDATE.* owner = :me, claim_token = :token/
const claimAnswer = /^SELECT .* WHERE owner = :me AND claim_token = :token/
const holders = /\) by_unique_key$/
const unknown = /\) head WHERE/
const sweepLook = /AS expired|^SELECT r\.id, r\.fence, r\.errors/
const declareDead = /AS expired|SET state = 3/
const putBack = /^UPDATE.* (r\.)?(crashes|timeouts) = CASE WHEN r\.(crashes|timeouts) </
const release = /^UPDATE.* WHERE id = :id AND fence = :fence/
const unpark = /^(?=.*SET state = CASE WHEN crashes).* state = 5 AND/
const owned = /(^| )(r\.)?fence, (r\.)?claim_token, (r\.)?cancel_at FROM/

const running = / AND \(?\+?r\.state( \+ 0)?\)? = 1/
const mysql = ["mysql"] as const
/** what a claim skips can be told apart there only: see the story */
const rowLocks = ["postgres"] as const

const mutations: ReadonlyArray<Mutation> = [
  drop("settle: fence", settle, /r\.fence = d\.fence AND /, "a stale holder of the same token settles"),
  drop("settle: token", settle, /r\.claim_token = d\.token AND /, "a stale holder of the same fence settles"),
  drop("settle: running", settle, running, "one claim has two outcomes"),
  drop("settle: fence and token", settle, /r\.fence = d\.fence AND r\.claim_token = d\.token AND /, "an outcome comes after another claim"),
  drop("settle, lock: token", settleLock, /r\.claim_token = d\.token AND /, "a stale holder of the same fence settles", mysql),
  drop("settle, lock: running", settleLock, running, "one claim has two outcomes", mysql),
  swap(
    "settle: a retry to be cancelled",
    settle,
    /r\.cancel_at IS NOT NULL THEN 4/,
    "1 = 0 THEN 4",
    "a run to be cancelled is not tried again"
  ),
  drop("success: fence", success, /r\.fence = (CAST\(:fence AS SIGNED\)|:fence\S*) AND /, "a stale holder of the same token succeeds"),
  drop(
    "success: token",
    success,
    /(FIND_IN_SET|instr)\([^)]*\) > 0 AND |r\.claim_token = ANY\(.*?\[\]\) AND /,
    "a stale holder of the same fence succeeds"
  ),
  drop("success: running", success, running, "a success comes after a cancellation"),
  drop("look for settled: token", settled, /r\.claim_token = d\.token AND /, "what another claim has settled"),
  swap(
    "successor: not to be cancelled",
    /occurrence \+ 1/,
    /WHERE r\.cancel_at IS NULL/,
    "WHERE 1 = 1",
    "a run to be cancelled is followed by none"
  ),
  swap(
    "successor: its key",
    /occurrence \+ 1/,
    /d\.due, (.*?), d\.unique_key/,
    "d.due, $1, NULL",
    "a key is held between the runs of a chain"
  ),

  swap(
    "claim: alive with a lease",
    claim,
    /i\.id = :me AND i\.state = 0 AND i\.lease_until >=/,
    "1 = 1 OR i.lease_until >=",
    "an instance claims after its lease"
  ),
  swap("claim: the lease", claim, /i\.lease_until >=/, "0 <", "an instance claims after its lease"),
  drop("claim: not draining", claim, /i\.state = 0 AND /, "an instance claims while it drains"),
  drop("claim: one's own lease", claim, /i\.id = :me AND /, "an instance claims with another's lease"),
  drop("claim: ready", claim, /state = \d AND (?=queue = :queue)/, "a run is claimed twice"),
  drop("claim: no suspects", claim, /state = \d AND (?=queue = :queue)/, "a suspect is claimed among others"),
  swap("claim: due", claim, /run_at <= /, "0 < ", "a run is claimed before its time"),
  drop("claim: a known job", claim, knownJob, "a run of an unknown job is claimed"),
  swap("claim: a known schedule", claim, /\(schedule IS NULL/, "(1 = 1", "a run of an unknown schedule is claimed"),
  drop("claim: the row is locked", claim, /FOR UPDATE SKIP LOCKED/, "a row that another claim is about to take", rowLocks),
  drop("claim: a locked row is skipped", claim, / SKIP LOCKED/, "a row that another claim is about to take", rowLocks),
  drop("claim, answer: token", claimAnswer, / AND claim_token = :token/, "two claims are two answers", mysql),
  drop(
    "claim, answer that was lost: token",
    claimAnswer,
    / AND claim_token = :token/,
    "the answer to a claim is lost, and another claim was before it"
  ),
  drop("claim, answer that was lost: running", claimAnswer, / AND state = 1/, "the answer to a claim is lost, and its run has ended"),

  drop(
    "sweep: the owner is not alive",
    sweepLook,
    / AND NOT EXISTS \(SELECT 1 FROM \w+ i WHERE i\.id = r\.owner AND i\.state IN \(0, 1\)\)/,
    "a living instance is swept"
  ),
  drop("sweep: the dead are not alive", sweepLook, / AND i\.state IN \(0, 1\)(?=\))/, "a dead instance is swept"),
  drop("sweep: running", sweepLook, /r\.state = 1 AND (?=NOT EXISTS)/, "a waiting run is swept"),
  drop("sweep: overdue", sweepLook, / AND r\.deadline_at < .*?(?= ORDER BY|\) AS overdue)/, "a run in good time is swept"),
  swap("declare dead: the lease", declareDead, /i\.lease_until < /, "0 < ", "a living instance is swept"),
  drop("declare dead: alive", declareDead, /i\.state IN \(0, 1\) AND (?=i\.lease)/, "an instance that has signed off is swept"),
  drop("put back: fence", putBack, /r\.fence = d\.fence AND /, "a sweep meets another claim"),
  drop("put back: running", putBack, running, "a sweep meets a settlement"),
  swap("put back: a run to be cancelled", putBack, /r\.cancel_at IS NOT NULL THEN 4/, "1 = 0 THEN 4", "a run to be cancelled is put back"),

  drop("release: fence", release, / AND fence = :fence/, "a claim of old is released"),
  drop("release: owner", release, / AND owner = :me/, "another's run is released"),
  drop("release: running", release, / AND state = 1/, "a run that has ended is released"),
  drop("cancel: waiting", /SET state = 4, finished_at/, / AND state IN \(0, 6, 5\)/, "a run that runs is cancelled as if it waited"),
  drop("cancel: not over", /SET state = 4, finished_at/, / AND state IN \(0, 6, 5\)/, "a run that has ended is cancelled again"),
  drop("request to cancel: running", /SET cancel_at = COALESCE/, / AND state = 1/, "a waiting run is asked to stop"),

  drop("heartbeat: alive", /SET lease_until = /, / AND state IN \(0, 1\)/, "a dead instance renews its lease"),
  drop("heartbeat: one's own runs", owned, /owner = :id AND |r\.owner = renewed\.id AND /, "another's runs are not one's own"),
  drop("heartbeat: running", owned, / AND (r\.)?state = 1/, "what one has settled is not one's own"),
  drop("drain: alive", /SET state = 1 WHERE id/, / AND state IN \(0, 1\)/, "a dead instance drains"),
  drop("sign off: alive", /SET state = 2, stopped_at/, / AND state IN \(0, 1\)/, "a dead instance signs off"),

  swap("park: ready", /SET (r\.)?state = 5/, /\(?\+?r\.state( \+ 0)?\)? = 0/, "1 = 1", "a run is parked while it is claimed"),
  drop("unpark: parked", unpark, /state = 5 AND /, "a run that has ended is not unparked"),
  drop("unpark: a known job", unpark, knownJob, "a run of an unknown job is not unparked"),
  swap("unpark: a known schedule", unpark, /\(schedule IS NULL/, "(1 = 1", "a run of an unknown schedule is not unparked"),
  drop("park: what the living know", /^SELECT jobs, schedules,/, / WHERE state IN \(0, 1\)$/, "a run is parked that only the dead know"),
  swap("park: a job that nobody knows", unknown, /WHERE job NOT IN/, "WHERE 1 = 1 OR job NOT IN", "a run is parked that another one knows"),
  swap(
    "park: a schedule that nobody knows",
    unknown,
    /schedule IS NOT NULL AND/,
    "schedule IS NOT NULL OR",
    "a run is parked whose schedule another one knows"
  ),
  drop("park: due for a minute", unknown, / - 60000/, "a run is parked that has only just come"),
  swap("retention: old enough", /^SELECT id FROM .* WHERE state = :state/, /finished_at < /, "0 < ", "a run is deleted before its time"),
  drop("retention: its outcome", /^SELECT id FROM .* WHERE state = :state/, /state = :state AND /, "a run is deleted for another's sake"),
  drop("forget: ended", /^DELETE FROM .* seen_at </, /state IN \(2, 3\) AND /, "an instance that lives and was not seen for long"),
  drop("forget: long ago", /^DELETE FROM .* seen_at </, / AND seen_at < .*$/, "an instance that has ended a moment ago"),
  mutation("register: a repeat", blind, "a registration is repeated"),

  drop("create: a repeat", /^INSERT.* ON CONFLICT DO NOTHING/, /ON CONFLICT DO NOTHING/, "a creation is repeated", ["sqlite", "postgres"]),
  mutation("create: a repeat", blind, "a creation is repeated", mysql),
  mutation("create: a key that is held", blind, "a key is asked for that somebody holds", mysql),
  swap("create, look: by its id", holders, /ON r\.id = d\.id/, "ON 1 = 0", "a creation is repeated whose run has given up its key"),
  swap("create, look: by its key", holders, /ON r\.unique_key = d\.unique_key/, "ON 1 = 0", "a key is asked for that somebody holds"),
  drop("create, look: what is there now", holders, / LOCK IN SHARE MODE/, "a key is taken after a transaction has begun"),

  mutation("migrate: one at a time", unlocked, "two make the tables at once")
]

const indexes = { unique: "a key is held", chain: "a place in a chain is taken" } as const

/** a database that lacks a guard; counts what had it */
const mutated = (database: databases.Database, { without }: Mutation) => {
  let found = 0
  const lacking = without(database, () => {
    found++
  })
  return { found: () => found, database: lacking }
}

/** whether a story ended with an assertion that failed */
const killed = <E>(exit: Exit.Exit<unknown, E>): boolean =>
  Exit.isFailure(exit) && Chunk.some(Cause.defects(exit.cause), (defect) => defect instanceof Error && defect.name === "AssertionError")

onEveryDatabase("a guard of the storage", (it, name) => {
  const open = (prefix: string) =>
    Effect.gen(function* () {
      const sql = (yield* SqlClient.SqlClient).withoutTransforms()
      const database = yield* databases.make(sql, dialectOf(sql)!, prefix)
      yield* migrate(database)
      return database
    })
  const here = mutations.filter(({ on }) => on === undefined || on.includes(name))

  it.scoped(
    "is there: all stories end well",
    () =>
      Effect.gen(function* () {
        const database = yield* open("whole")
        const failed: Array<string> = []
        for (const [story, scenario] of Object.entries(scenarios)) {
          if (only[story as ScenarioName]?.includes(name) === false) continue
          const exit = yield* Effect.exit(scenario(database))
          if (Exit.isFailure(exit)) failed.push(`${story}: ${Cause.pretty(exit.cause)}`)
        }
        assert.deepStrictEqual(failed, [])
      }),
    limit(60, 60)
  )

  it.scoped(
    "is missed when it is not there",
    () =>
      Effect.gen(function* () {
        const database = yield* open("mutant")
        const survivors: Array<string> = []
        for (const mutation of here) {
          const mutant = mutated(database, mutation)
          const exit = yield* Effect.exit(scenarios[mutation.killedBy](mutant.database))
          if (mutant.found() === 0) survivors.push(`${mutation.guard}: no statement has it any more`)
          else if (!killed(exit))
            survivors.push(`${mutation.guard}: ${Exit.isSuccess(exit) ? "nobody missed it" : Cause.pretty(exit.cause)}`)
        }
        for (const [index, story] of Object.entries(indexes)) {
          const without = yield* open(`no_${index}`)
          const { runs } = without.tables
          yield* without.write("drop an index", (session) =>
            session.run(`DROP INDEX ${runs}_${index}${name === "mysql" ? ` ON ${runs}` : ""}`)
          )
          if (!killed(yield* Effect.exit(scenarios[story](without)))) survivors.push(`the index ${index}: nobody missed it`)
        }
        report({
          row: 70,
          what: "guards taken out of the statements one at a time, each noticed by a story",
          database: name,
          count: here.length + 2,
          result: survivors.length === 0 ? "passed" : "failed",
          figure: `${here.length + 2 - survivors.length} of ${here.length + 2}: ${[...here.map(({ guard }) => guard), "unique key", "place in a chain"].join("; ")}`
        })
        assert.deepStrictEqual(survivors, [])
      }),
    limit(90, 90)
  )
})
