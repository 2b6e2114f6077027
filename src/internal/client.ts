/** createRun, cancel and getRunState: what a program asks of the table, with or without an instance beside it. */
import { createHash } from "node:crypto"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { InstanceId } from "../Instance.js"
import type { Job } from "../Job.js"
import type { Jobsd } from "../Jobsd.js"
import { OptionError, PayloadError, RunNotFound, ScheduleError } from "../JobsdError.js"
import type { RunId, RunState } from "../Run.js"
import { describeParseError } from "./failureText.js"
import { nextMoment } from "./lifecycle.js"
import { backoffSteps, mergePolicy, nameIssue, priorityIssue, type Resolved, replay, textIssue } from "./settings.js"
import { outsideTransaction } from "./storage/database.js"
import type { RunStore } from "./storage/runStore.js"
import { metrics, sending, traceparent } from "./telemetry.js"
import { isUuid, uuidv7 } from "./uuid.js"

/** What an instance adds to a client: it can be woken. */
export interface Local {
  readonly id: () => InstanceId
  /** a run will be due */
  readonly wake: () => void
  /** a run of this queue is due now */
  readonly due: (queue: string) => void
  readonly cancel: (id: string) => void
}

const check = (option: string, issue: string | null) => (issue === null ? Effect.void : Effect.fail(new OptionError({ option, issue })))

const encodePayload = (job: Job.Any, payload: unknown, limit: number): Effect.Effect<string, PayloadError> =>
  Effect.flatMap(
    Effect.mapError(
      Schema.encodeUnknown(job.payloadSchema)(payload),
      (error) => new PayloadError({ job: job.name, issue: describeParseError(error) })
    ),
    (encoded) =>
      Effect.flatMap(
        Effect.try({
          try: () => JSON.stringify(encoded) ?? "",
          catch: () => new PayloadError({ job: job.name, issue: "what its schema encodes it to is not JSON" })
        }),
        (text) =>
          Buffer.byteLength(text) > limit
            ? new PayloadError({ job: job.name, issue: `it has ${Buffer.byteLength(text)} bytes, payloadLimit is ${limit}` })
            : Effect.succeed(text)
      )
  )

export const make = (store: RunStore, settings: Resolved, local: Local): Omit<Jobsd.Service, "instance"> => {
  /** the first moment of a scheduled run: the rule applied to the database's now plus the delay */
  const firstMoment = (schedule: NonNullable<Jobsd.CreateRunOptions["schedule"]>, runAt: number | null, delay: number) =>
    Effect.flatMap(outsideTransaction(store.now), (now) => {
      const next = nextMoment(
        (after) => schedule.next(DateTime.unsafeMake(after)).epochMillis,
        (runAt ?? now) + delay,
        Number.NEGATIVE_INFINITY
      )
      return typeof next === "number" ? Effect.succeed(next) : new ScheduleError({ schedule: schedule.name, issue: next })
    })

  const createRun: Jobsd.Service["createRun"] = (job, payload, options = {}) =>
    Effect.gen(function* () {
      const queue = options.queue ?? job.queue ?? "default"
      const priority = options.priority ?? job.priority ?? 5
      const { limit, runAt, schedule, unique } = options
      yield* check("job", nameIssue(job.name))
      yield* check("queue", nameIssue(queue))
      yield* check("priority", priorityIssue(priority))
      yield* check("schedule", schedule === undefined ? null : nameIssue(schedule.name))
      yield* check("unique", unique === undefined ? null : unique.length === 0 ? "expected at least 1 character" : textIssue(unique))
      yield* check(
        "limit",
        limit === undefined || (Number.isInteger(limit) && limit >= 1 && limit < 2 ** 31) ? null : "expected an integer of at least 1"
      )
      yield* check("limit", limit !== undefined && schedule === undefined ? "expected a schedule with it" : null)
      const delay = Duration.decodeUnknown(options.delay ?? 0)
      if (Option.isNone(delay) || !Duration.isFinite(delay.value)) {
        return yield* new OptionError({ option: "delay", issue: "expected a finite duration" })
      }
      const delayMillis = Math.round(Duration.toMillis(delay.value))
      const policy = yield* Either.mapLeft(mergePolicy(settings.policy, job.policy, options), (error) => new OptionError(error))
      const encoded = yield* encodePayload(job, payload, settings.payloadLimit)
      const id = uuidv7(Date.now()) as RunId
      const backoff = options.backoff === undefined ? null : JSON.stringify(yield* replay(options.backoff, backoffSteps, id))
      const at = runAt === undefined ? null : DateTime.toEpochMillis(runAt)
      const due = schedule === undefined ? at : yield* firstMoment(schedule, at, delayMillis)

      const created = yield* store.insert({
        id,
        job: job.name,
        queue,
        schedule: schedule?.name ?? null,
        name: unique ?? null,
        uniqueKey: unique === undefined ? null : createHash("sha256").update(unique).digest("hex"),
        priority,
        runAt: due,
        delayMillis: schedule === undefined ? delayMillis : 0,
        createdBy: local.id(),
        ...policy,
        successLimit: limit ?? null,
        backoff,
        payload: encoded,
        payloadBytes: Buffer.byteLength(encoded),
        traceparent: yield* traceparent
      })
      if (created === id) {
        metrics.sent(1, job.name)
        if (due === null && delayMillis === 0) local.due(queue)
        else local.wake()
      } else {
        yield* Effect.logDebug(`createRun: the unique key is held by run ${created}; nothing was created`)
      }
      return created
    }).pipe(sending(job.name, options.queue ?? job.queue ?? "default"))

  // an id comes in from outside: what is no UUID is no run either, and databases compare the letters of one differently
  const latest = (id: RunId) =>
    isUuid(id)
      ? Effect.flatMap(
          outsideTransaction(store.latestOfChain(id.toLowerCase() as RunId)),
          Option.match({ onNone: () => new RunNotFound({ id }), onSome: Effect.succeed })
        )
      : new RunNotFound({ id })

  // each round looks first; the state can change between the look and the write, but only forwards
  const cancel: Jobsd.Service["cancel"] = (id) =>
    outsideTransaction(
      Effect.gen(function* () {
        for (;;) {
          const run: RunState = yield* latest(id)
          switch (run.status) {
            case "ready":
            case "parked":
              if (yield* store.cancelWaiting(run.id)) return "cancelled"
              break
            case "running":
              if (yield* store.requestCancel(run.id)) {
                local.cancel(run.id)
                return "requested"
              }
              break
            default:
              return "finished"
          }
        }
      })
    )

  return { createRun, cancel, getRunState: latest }
}
