/** Every question asked of the instances table. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type { Instance, InstanceCounts, InstanceId } from "../../Instance.js"
import type { StorageError } from "../../JobsdError.js"
import type { RunId } from "../../Run.js"
import { State } from "../lifecycle.js"
import { brief, type Database, type Patience } from "./database.js"
import { number, storedNames, string } from "./runRow.js"
import type { Row, Session } from "./session.js"

/** How an instance is in the table. */
export const InstanceState = { alive: 0, draining: 1, stopped: 2, dead: 3 } as const

export interface Registration {
  readonly id: InstanceId
  readonly host: string
  readonly pid: number
  readonly jobs: ReadonlyArray<string>
  readonly schedules: ReadonlyArray<string>
  readonly queues: { readonly [queue: string]: number }
}

/** A run that the table says is ours. */
export interface Owned {
  readonly id: RunId
  readonly fence: number
  readonly token: string
  readonly cancelRequested: boolean
}

export interface InstanceStore {
  readonly register: (counts: InstanceCounts, patience?: Patience) => Effect.Effect<Instance, StorageError>
  /** renews the lease and writes the counts; null if this instance has been declared dead; else the runs it owns */
  readonly heartbeat: (counts: InstanceCounts) => Effect.Effect<ReadonlyArray<Owned> | null, StorageError>
  readonly drain: Effect.Effect<void, StorageError>
  readonly stop: (counts: InstanceCounts) => Effect.Effect<void, StorageError>
  /** within the transaction that the caller has open, if any */
  readonly read: (within?: Session | null) => Effect.Effect<Instance | null, StorageError>
  /** deletes instances that ended long ago */
  readonly forget: Effect.Effect<number, StorageError>
}

/** How long an instance that has ended stays in the table. */
export const instancesKeptMillis = 30 * 24 * 60 * 60 * 1000

const statuses = ["alive", "draining", "stopped", "dead"] as const

const owned = (row: Row): Owned => ({
  id: string(row.id) as RunId,
  fence: number(row.fence),
  token: string(row.claim_token),
  cancelRequested: row.cancel_at !== null
})

const instance = (row: Row): Instance => ({
  id: string(row.id) as InstanceId,
  host: string(row.host),
  pid: number(row.pid),
  status: statuses[number(row.state)]!,
  jobs: storedNames(row.jobs),
  schedules: storedNames(row.schedules),
  queues: JSON.parse(string(row.queues)),
  startedAt: DateTime.unsafeMake(number(row.started_at)),
  lastSeenAt: DateTime.unsafeMake(number(row.seen_at)),
  shutdownAt: row.stopped_at === null ? null : DateTime.unsafeMake(number(row.stopped_at)),
  counts: JSON.parse(string(row.counts))
})

export const make = (database: Database, me: Registration, leaseMillis: number): InstanceStore => {
  const { dialect, statement, tables } = database
  const { now } = dialect
  const { instances, runs } = tables
  const living = `state IN (${InstanceState.alive}, ${InstanceState.draining})`
  const { id } = me

  const insert = statement(`
    INSERT INTO ${instances} (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
    VALUES (:id, :host, :pid, ${InstanceState.alive}, :jobs, :schedules, :queues, ${now} + ${dialect.big(":lease")}, ${now}, ${now}, :counts)`)
  const renewal = `
    UPDATE ${instances}
    SET lease_until = ${now} + ${dialect.big(":lease")}, seen_at = ${now}, counts = :counts
    WHERE id = :id AND ${living}`
  const renew = statement(renewal)
  const renewAndList = statement(`
    WITH renewed AS (${renewal} RETURNING id)
    SELECT r.id, r.fence, r.claim_token, r.cancel_at FROM renewed
    LEFT JOIN ${runs} r ON r.owner = renewed.id AND r.state = ${State.running}`)
  const selectOwned = statement(`
    SELECT id, fence, claim_token, cancel_at FROM ${runs} ${dialect.useIndex(tables, "owned")}
    WHERE owner = :id AND state = ${State.running}`)
  const startDraining = statement(`UPDATE ${instances} SET state = ${InstanceState.draining} WHERE id = :id AND ${living}`)
  const markStopped = statement(`
    UPDATE ${instances}
    SET state = ${InstanceState.stopped}, stopped_at = ${now}, seen_at = ${now}, counts = :counts
    WHERE id = :id AND ${living}`)
  const select = statement(`
    SELECT id, host, pid, state, jobs, schedules, queues, started_at, seen_at, stopped_at, counts FROM ${instances} WHERE id = :id`)
  const deleteEnded = statement(`
    DELETE FROM ${instances}
    WHERE state IN (${InstanceState.stopped}, ${InstanceState.dead}) AND seen_at < ${now} - ${dialect.big(":millis")}`)

  const read = (via: Pick<Database, "read">, patience?: Patience) =>
    Effect.map(
      via.read("read this instance", (session) => session.rows(select, { id }), patience),
      (rows) => (rows[0] === undefined ? null : instance(rows[0]))
    )

  return {
    register: (counts, patience) =>
      Effect.zipRight(
        // a repeat after a lost answer finds its own row
        database.write(
          "register this instance",
          (session) =>
            session
              .affected(insert, {
                id,
                host: me.host.slice(0, 128),
                pid: me.pid,
                jobs: JSON.stringify(me.jobs),
                schedules: JSON.stringify(me.schedules),
                queues: JSON.stringify(me.queues),
                lease: leaseMillis,
                counts: JSON.stringify(counts)
              })
              .pipe(Effect.catchAll((error) => (dialect.failure(error) === "unique" ? Effect.succeed(1) : Effect.fail(error)))),
          patience
        ),
        Effect.map(read(database, patience), (found) => found!)
      ),
    heartbeat: (counts) =>
      database.write(
        "renew the lease",
        (session) => {
          const values = { id, lease: leaseMillis, counts: JSON.stringify(counts) }
          if (dialect.writesInWith) {
            return Effect.map(session.rows(renewAndList, values), (rows) =>
              rows.length === 0 ? null : rows.flatMap((row) => (row.id === null ? [] : [owned(row)]))
            )
          }
          return Effect.flatMap(session.affected(renew, values), (renewed) =>
            renewed === 0 ? Effect.succeed(null) : Effect.map(session.rows(selectOwned, { id }), (rows) => rows.map(owned))
          )
        },
        // the next heartbeat is as good as another try
        brief(leaseMillis)
      ),
    drain: Effect.asVoid(database.write("start draining", (session) => session.affected(startDraining, { id }))),
    stop: (counts) =>
      Effect.asVoid(
        database.write("sign off this instance", (session) => session.affected(markStopped, { id, counts: JSON.stringify(counts) }))
      ),
    read: (within = null) => read(database.within(within)),
    forget: database.write("forget ended instances", (session) => session.affected(deleteEnded, { millis: instancesKeptMillis }))
  }
}
