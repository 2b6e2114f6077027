/** Plays commands on the real tables and on the model side by side, and compares them after each. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import type { InstanceId } from "../../src/Instance.js"
import { State } from "../../src/internal/lifecycle.js"
import type { Database } from "../../src/internal/storage/database.js"
import * as instanceStore from "../../src/internal/storage/instanceStore.js"
import type { ClaimedRun } from "../../src/internal/storage/runRow.js"
import * as runStore from "../../src/internal/storage/runStore.js"
import type { Row } from "../../src/internal/storage/session.js"
import type { RunId } from "../../src/Run.js"
import { type Claim, type Command, hour, knows, Model, type Run, settlementOf, times, type Who } from "./storageModel.js"

const counts = { started: 0, succeeded: 0, errors: 0, timedOut: 0, cancelled: 0, rescheduled: 0, released: 0, rescued: 0 }

const outcomes = { [State.succeeded]: "succeeded", [State.failed]: "failed", [State.cancelled]: "cancelled" } as const

/** ids in the order of their making */
export const idOf = (kind: string, n: number) => `00000000-0000-7000-8${kind}-${n.toString(16).padStart(12, "0")}`

interface Made {
  readonly id: string
  readonly who: Who
  readonly runs: runStore.RunStore
  readonly instances: instanceStore.InstanceStore
}

/** the n-th of a list from its end, whatever n is */
const fromEnd = <A>(list: ReadonlyArray<A>, n: number): A | undefined => list[list.length - 1 - (n % list.length)]

/** What a sequence has come across: a test that met no stale outcome has tested nothing. */
export const events = [
  "claimed",
  "recorded",
  "stale",
  "rescued",
  "released",
  "followed",
  "cancelled",
  "key held",
  "parked",
  "deleted"
] as const
export type Tally = { [Event in (typeof events)[number]]: number }
export const emptyTally = (): Tally => Object.fromEntries(events.map((event) => [event, 0])) as Tally

/** Plays a sequence on empty tables; dies with an assertion where the tables and the model part. */
export const play = (database: Database, commands: ReadonlyArray<Command>, tally: Tally = emptyTally()) =>
  Effect.gen(function* () {
    const { tables } = database
    const on = (text: string) => database.write("play", (session) => session.run(text))
    const select = (text: string) => database.read("look", (session) => session.run(text))
    for (const table of [tables.attempts, tables.runs, tables.instances]) yield* on(`DELETE FROM ${table}`)

    const model = new Model()
    const current = new Map<Who, Made>()
    const made = new Map<string, Made>()
    const claims: Array<{ readonly model: Claim; readonly real: ClaimedRun }> = []
    let ids = 0

    const restart = (who: Who) =>
      Effect.gen(function* () {
        const id = idOf("aaa", made.size + 1)
        const { jobs, schedules } = knows[who]
        const leaseMillis = times.lease * hour
        const asker = { database, me: id as InstanceId, known: { jobs, schedules }, queues: ["default"], leaseMillis }
        const registration = { id: id as InstanceId, host: who, pid: 1, jobs, schedules, queues: { default: 1 } }
        const instance = { id, who, runs: runStore.make(asker), instances: instanceStore.make(database, registration, leaseMillis) }
        yield* instance.instances.register(counts)
        model.register(id, who)
        current.set(who, instance)
        made.set(id, instance)
      })
    yield* restart("A")
    yield* restart("B")

    const step = (command: Command) =>
      Effect.gen(function* () {
        const { id: me, instances, runs, who } = current.get("who" in command ? command.who : "A")!
        const runIds = [...model.runs.keys()]
        switch (command.do) {
          case "create": {
            const unique = command.unique === null ? null : String(command.unique).repeat(64)
            const schedule = command.scheduled ? "Rule" : null
            const successLimit = command.scheduled ? command.limit : null
            const limits = { maxErrors: command.max, maxTimeouts: command.max, maxCrashes: command.max }
            const common = { ...limits, job: command.job, schedule, priority: command.priority, successLimit }
            const wanted = Array.from({ length: command.count }, () => idOf("bbb", ++ids) as RunId)
            const group = wanted.map(
              (id): runStore.NewRun => ({
                ...common,
                id,
                queue: "default",
                name: unique,
                uniqueKey: unique,
                runAt: null,
                delayMillis: command.delay * hour,
                createdBy: me as InstanceId,
                timeoutMillis: times.timeout * hour,
                backoff: null,
                payload: id,
                payloadBytes: id.length,
                traceparent: null
              })
            )
            const created = yield* command.count === 3 ? runs.insertAll(group) : runs.insert(group, null)
            const expected = wanted.map((id) =>
              model.create({
                ...common,
                id,
                origin: id,
                occurrence: 0,
                unique,
                state: State.ready,
                dueAt: model.now + command.delay,
                fence: 0,
                owner: null,
                token: null,
                startedBy: null,
                cancel: false,
                finishedAt: null,
                claimedAt: null,
                result: null,
                error: null,
                errors: 0,
                timeouts: 0,
                crashes: 0,
                successCount: 0
              })
            )
            tally["key held"] += expected.filter((id) => !wanted.includes(id as RunId)).length
            return assert.deepStrictEqual<ReadonlyArray<string>>(created, expected, "the runs of that key")
          }
          case "claim": {
            const token = idOf("ccc", ++ids)
            const { full, runs: claimed } = yield* runs.claim("default", command.state, command.limit, token)
            const taken = claimed.map(({ id }) => id)
            const expected = model.claim(me, command.state, command.limit, token, taken)
            assert.strictEqual(full, taken.length === command.limit, "as many as asked")
            tally.claimed += taken.length
            for (const [i, claim] of expected.entries()) claims.push({ model: claim, real: claimed[i]! })
            return
          }
          case "settle": {
            const chosen = [...new Set(command.claims.map((n) => fromEnd(claims, n)))].filter((claim) => claim !== undefined)
            // one instance settles its own
            const group = chosen.filter(({ model }) => model.by === chosen[0]?.model.by)
            if (group.length === 0) return
            const { id: settler, runs } = made.get(group[0]!.model.by)!
            const now = yield* runs.now()
            const started = command.outcome !== "Released" && command.outcome !== "Exhausted"
            const settled = group.map(({ model: claim, real }) => {
              const successorId = idOf("bbb", ++ids)
              const settlement = settlementOf({ ...claim, run: { ...claim.run, ...real } }, command, now)
              return { claim, real, settlement, successorId, expected: settlementOf(claim, command, model.now * hour) }
            })
            const written = yield* runs.settleOurs(
              settled.map(({ real, settlement, successorId }) => ({
                run: real,
                settlement,
                startedAt: started ? now : null,
                successorId: settlement.successor === null ? null : (successorId as RunId)
              }))
            )
            const expected = model.settle(
              settler,
              started,
              settled.map(({ claim, expected, successorId }) => ({ claim, settlement: expected, successorId }))
            )
            tally.recorded += expected.length
            tally.stale += group.length - expected.length
            tally.followed += settled.filter(({ successorId }) => model.runs.has(successorId)).length
            // what was still ours, and what an earlier write of that claim has settled: its answer may have been lost
            const recorded = model.settledBefore(settled.map(({ claim }) => claim))
            return assert.sameMembers(
              [...written].map(({ fence, id }) => `${id} ${fence}`),
              recorded,
              "what these claims have settled"
            )
          }
          case "heartbeat": {
            const owned = yield* instances.heartbeat(counts)
            const expected = model.heartbeat(me)
            return assert.deepStrictEqual(
              owned === null
                ? null
                : owned.map(({ cancelRequested, fence, id, token }) => [id, fence, token, cancelRequested] as const).sort(byFirst),
              expected === null
                ? null
                : expected.map(({ cancel, fence, id, token }) => [id as RunId, fence, token!, cancel] as const).sort(byFirst),
              "what it owns"
            )
          }
          case "expire":
            yield* on(`UPDATE ${tables.instances} SET lease_until = ${database.dialect.now} - ${times.expired * hour} WHERE id = '${me}'`)
            return model.expire(me)
          case "sweep": {
            const rescued = model.sweep()
            tally.rescued += rescued
            return assert.strictEqual(yield* runs.sweep(times.lease * hour, () => true), rescued, "put back")
          }
          case "drain":
            yield* instances.drain
            return model.drain(me)
          case "stop":
            yield* instances.stop(counts)
            return model.stop(me)
          case "restart":
            return yield* restart(who)
          case "park": {
            const parked = model.park()
            tally.parked += parked
            const { unknown } = yield* runs.chores({ succeeded: null, failed: null, cancelled: null })
            return assert.strictEqual(unknown.length === 0 ? 0 : yield* runs.park(unknown), parked, "parked")
          }
          case "unpark":
            return assert.strictEqual(yield* runs.unpark, model.unpark(who), "unparked")
          case "cancelWaiting":
          case "requestCancel": {
            const id = fromEnd(runIds, command.run)
            if (id === undefined) return
            const changed = model[command.do](id)
            if (changed) tally.cancelled++
            return assert.strictEqual(yield* runs[command.do](id as RunId), changed, "whether it was")
          }
          case "latest": {
            const id = fromEnd(runIds, command.run)
            if (id === undefined) return
            const latest = yield* runs.latestOfChain(id as RunId)
            return assert.strictEqual(Option.getOrThrow(latest).id, model.latestOfChain(id)?.id, "the latest of its chain")
          }
          case "release": {
            const claim = fromEnd(claims, command.claim)?.model
            if (claim === undefined) return
            const { id, runs } = made.get(claim.by)!
            const released = model.releaseUnknown(id, claim.run.id, claim.run.fence)
            if (released) tally.released++
            return assert.strictEqual(yield* runs.releaseUnknown(claim.run.id as RunId, claim.run.fence), released, "released")
          }
          case "retention": {
            const deleted = model.deleteFinished(command.state)
            tally.deleted += deleted
            return assert.strictEqual(yield* runs.deleteFinished(outcomes[command.state], times.kept * hour), deleted, "deleted")
          }
          case "tamper": {
            const id = fromEnd(runIds, command.run)
            if (id === undefined) return
            const { fence } = model.runs.get(id)!
            const token = idOf("ddd", ++ids)
            const change = { fence: { fence: fence + 7 }, token: { token }, owner: { owner: me } }[command.what]
            const set = { fence: `fence = ${fence + 7}`, token: `claim_token = '${token}'`, owner: `owner = '${me}'` }[command.what]
            yield* on(`UPDATE ${tables.runs} SET ${set} WHERE id = '${id}'`)
            return model.tamper(id, change)
          }
          case "nextDue": {
            const waits = (yield* runs.nextDue).get("default")!
            const hours = [waits.ready, waits.suspect].map((wait) => Math.round(wait / hour) + 0)
            return assert.deepStrictEqual(hours, [model.nextDue(who, State.ready), model.nextDue(who, State.suspect)], "the next ones")
          }
          case "advance": {
            const earlier = (columns: ReadonlyArray<string>) =>
              columns.map((column) => `${column} = ${column} - ${command.hours * hour}`).join(", ")
            yield* on(
              `UPDATE ${tables.runs} SET ${earlier(["run_at", "created_at", "claimed_at", "started_at", "deadline_at", "finished_at", "cancel_at"])}`
            )
            yield* on(`UPDATE ${tables.instances} SET ${earlier(["lease_until", "seen_at"])}`)
            model.now += command.hours
          }
        }
      })

    const compare = Effect.gen(function* () {
      const rows = yield* select(`SELECT r.*, ${database.dialect.now} AS db_now FROM ${tables.runs} r ORDER BY r.id`)
      const runs = [...model.runs.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
      assert.deepStrictEqual(
        rows.map(seen),
        runs.map((run) => expected(run, model.now))
      )
      const attempts = yield* select(`SELECT run_id, fence, outcome FROM ${tables.attempts}`)
      assert.deepStrictEqual(
        Object.fromEntries(attempts.map(({ fence, outcome, run_id }) => [`${run_id} ${fence}`, outcome])),
        Object.fromEntries(model.attempts)
      )
      const instances = yield* select(`SELECT id, state FROM ${tables.instances}`)
      assert.deepStrictEqual(
        Object.fromEntries(instances.map(({ id, state }) => [String(id), Number(state)])),
        Object.fromEntries([...model.instances].map(([id, { state }]) => [id, state]))
      )
      model.checkInvariants()
    })

    for (const command of commands) {
      yield* step(command)
      yield* compare
    }
  })

const byFirst = (a: readonly [string, ...Array<unknown>], b: readonly [string, ...Array<unknown>]) => (a[0] < b[0] ? -1 : 1)

/** a row as text, for a comparison that does not care how a driver gives its numbers */
const seen = (row: Row) => {
  const hours = (column: string) => (row[column] === null ? null : Math.round((Number(row[column]) - Number(row.db_now)) / hour) + 0)
  const or = <A>(column: string, convert: (value: unknown) => A) => (row[column] === null ? null : convert(row[column]))
  return {
    id: row.id,
    origin: row.origin_id,
    occurrence: Number(row.occurrence),
    job: row.job,
    schedule: row.schedule,
    unique: or("unique_key", (key) => String(key).trim()),
    priority: Number(row.priority),
    state: Number(row.state),
    due: hours("run_at"),
    claimed: hours("claimed_at"),
    finished: hours("finished_at"),
    fence: Number(row.fence),
    owner: row.owner,
    token: row.claim_token,
    startedBy: row.started_by,
    cancel: row.cancel_at !== null,
    hasDeadline: row.deadline_at !== null,
    errors: Number(row.errors),
    timeouts: Number(row.timeouts),
    crashes: Number(row.crashes),
    limits: ["max_errors", "max_timeouts", "max_crashes", "success_limit"].map((column) => or(column, Number)),
    successCount: Number(row.success_count),
    result: row.result,
    error: row.error
  }
}

const expected = (run: Run, now: number): ReturnType<typeof seen> => ({
  id: run.id,
  origin: run.origin,
  occurrence: run.occurrence,
  job: run.job,
  schedule: run.schedule,
  unique: run.unique,
  priority: run.priority,
  state: run.state,
  due: run.dueAt - now,
  claimed: run.claimedAt === null ? null : run.claimedAt - now,
  finished: run.finishedAt === null ? null : run.finishedAt - now,
  fence: run.fence,
  owner: run.owner,
  token: run.token,
  startedBy: run.startedBy,
  cancel: run.cancel,
  hasDeadline: run.state === State.running,
  errors: run.errors,
  timeouts: run.timeouts,
  crashes: run.crashes,
  limits: [run.maxErrors, run.maxTimeouts, run.maxCrashes, run.successLimit],
  successCount: run.successCount,
  result: run.result,
  error: run.error
})
