/** createRun, cancel and getRunState: what a program asks of the table, with or without an instance beside it. */
import { createHash } from "node:crypto"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import type { InstanceId } from "../Instance.js"
import type { Job } from "../Job.js"
import type { Jobsd } from "../Jobsd.js"
import { OptionError, PayloadError, RunNotFound, ScheduleError } from "../JobsdError.js"
import type { RunId, RunState } from "../Run.js"
import type { Announcer } from "./announcer.js"
import { describeParseError } from "./failureText.js"
import * as groups from "./groups.js"
import { nextMoment } from "./lifecycle.js"
import { lastMoment, momentOf } from "./moment.js"
import { backoffSteps, mergePolicy, nameIssue, priorityIssue, type Resolved, replay, textIssue } from "./settings.js"
import { outsideTransaction } from "./storage/database.js"
import type { Hint } from "./storage/hints.js"
import type { NewRun, RunStore } from "./storage/runStore.js"
import { metrics, sending, traceparent } from "./telemetry.js"
import { isUuid, uuidv7 } from "./uuid.js"

/** What an instance adds to a client: it can be woken. */
export interface Local {
  readonly id: () => InstanceId
  readonly announcer: Announcer
  readonly cancel: (id: string) => void
}

/** What is wrong with an option of createRun, or null. */
const wrongOption = (job: Job.Any, queue: string, priority: number, options: Jobsd.CreateRunOptions): OptionError | null => {
  const { limit, schedule, unique } = options
  const wrong = (option: string, issue: string | null) => (issue === null ? null : new OptionError({ option, issue }))
  return (
    wrong("job", nameIssue(job.name)) ??
    wrong("queue", nameIssue(queue)) ??
    wrong("priority", priorityIssue(priority)) ??
    (schedule === undefined ? null : wrong("schedule", nameIssue(schedule.name))) ??
    (unique === undefined ? null : wrong("unique", unique.length === 0 ? "expected at least 1 character" : textIssue(unique))) ??
    (limit === undefined
      ? null
      : wrong(
          "limit",
          schedule === undefined
            ? "expected a schedule with it"
            : Number.isInteger(limit) && limit >= 1 && limit < 2 ** 31
              ? null
              : "expected an integer of at least 1"
        ))
  )
}

/** The JSON text of a payload. A schema without effects is encoded without a fiber. */
const encodePayload = (job: Job.Any, payload: unknown, limit: number): Effect.Effect<Encoded, PayloadError> => {
  const encoded = ParseResult.encodeUnknown(job.payloadSchema)(payload)
  return Either.isEither(encoded) && Either.isRight(encoded)
    ? stored(job, encoded.right, limit)
    : Effect.flatMap(
        Effect.mapError(
          encoded,
          (issue) => new PayloadError({ job: job.name, issue: describeParseError(new ParseResult.ParseError({ issue })) })
        ),
        (encoded) => stored(job, encoded, limit)
      )
}

interface Encoded {
  readonly payload: string
  readonly payloadBytes: number
}

const stored = (job: Job.Any, encoded: unknown, limit: number): Effect.Effect<Encoded, PayloadError> => {
  let payload: string
  try {
    payload = JSON.stringify(encoded) ?? ""
  } catch {
    return new PayloadError({ job: job.name, issue: "what its schema encodes it to is not JSON" })
  }
  const payloadBytes = Buffer.byteLength(payload)
  return payloadBytes > limit
    ? new PayloadError({ job: job.name, issue: `it has ${payloadBytes} bytes, payloadLimit is ${limit}` })
    : Effect.succeed({ payload, payloadBytes })
}

export const make = (store: RunStore, settings: Resolved, local: Local): Omit<Jobsd.Service, "instance" | "hurry"> => {
  const { announcer } = local
  const hintOf = ({ delayMillis, queue, runAt }: Pick<NewRun, "queue" | "runAt" | "delayMillis">): Hint => ({
    queue: runAt === null && delayMillis === 0 ? queue : null
  })

  const insertInGroup = groups.make({
    fitting: store.fitting,
    // a hint that may be told now goes with the runs: one round trip less until another process has them
    write: (group: ReadonlyArray<NewRun>) => {
      const hints = new Map(group.map((run) => [hintOf(run).queue, hintOf(run)]))
      const [first] = hints.values()
      const told = announcer.mayTell(first!) ? first! : null
      return Effect.tap(store.insert(group, told === null ? null : announcer.word(told)), () => announcer.announce(hints.values(), told))
    },
    isOnes: (error) => error.reason === "rejected"
  })

  /** the first moment of a scheduled run: the rule applied to the database's now plus the delay */
  const firstMoment = (schedule: NonNullable<Jobsd.CreateRunOptions["schedule"]>, runAt: number | null, delay: number) =>
    Effect.flatMap(outsideTransaction(store.now), (now) => {
      const next = nextMoment((after) => schedule.next(momentOf(after)).epochMillis, (runAt ?? now) + delay, Number.NEGATIVE_INFINITY)
      return typeof next === "number" ? Effect.succeed(next) : new ScheduleError({ schedule: schedule.name, issue: next })
    })

  /** everything about new runs but their payloads */
  const template = (job: Job.Any, options: Jobsd.CreateRunOptions) =>
    Effect.gen(function* () {
      const queue = options.queue ?? job.queue ?? "default"
      const priority = options.priority ?? job.priority ?? 5
      const { limit, runAt, schedule, unique } = options
      const wrong = wrongOption(job, queue, priority, options)
      if (wrong !== null) return yield* wrong
      const delay = Duration.decodeUnknown(options.delay ?? 0)
      if (Option.isNone(delay) || !Duration.isFinite(delay.value)) {
        return yield* new OptionError({ option: "delay", issue: "expected a finite duration" })
      }
      const policy = mergePolicy(settings.policy, job.policy, options)
      if (Either.isLeft(policy)) return yield* new OptionError(policy.left)
      const delayMillis = Math.round(Duration.toMillis(delay.value))
      const at = runAt === undefined ? null : DateTime.toEpochMillis(runAt)
      if (Math.abs((at ?? Date.now()) + delayMillis) > lastMoment) {
        return yield* new OptionError({
          option: runAt === undefined ? "delay" : "runAt",
          issue: "expected a moment before the year 275760"
        })
      }
      return {
        job: job.name,
        queue,
        schedule: schedule?.name ?? null,
        name: unique ?? null,
        uniqueKey: unique === undefined ? null : createHash("sha256").update(unique).digest("hex"),
        priority,
        runAt: schedule === undefined ? at : yield* firstMoment(schedule, at, delayMillis),
        delayMillis: schedule === undefined ? delayMillis : 0,
        createdBy: local.id(),
        ...policy.right,
        successLimit: limit ?? null,
        traceparent: yield* traceparent
      }
    })

  const newRun = (
    job: Job.Any,
    payload: unknown,
    template: Omit<NewRun, "id" | "backoff" | keyof Encoded>,
    options: Jobsd.CreateRunOptions
  ) =>
    Effect.flatMap(encodePayload(job, payload, settings.payloadLimit), (encoded) => {
      const id = uuidv7(Date.now()) as RunId
      const run = (backoff: string | null): NewRun => ({ id, backoff, ...template, ...encoded })
      return options.backoff === undefined
        ? Effect.succeed(run(null))
        : Effect.map(replay(options.backoff, backoffSteps, id), (backoff) => run(JSON.stringify(backoff)))
    })

  const queueOf = (job: Job.Any, options: Jobsd.CreateRunOptions) => options.queue ?? job.queue ?? "default"

  const createRun: Jobsd.Service["createRun"] = (job, payload, options = {}) =>
    Effect.gen(function* () {
      const run = yield* newRun(job, payload, yield* template(job, options), options)
      const transaction = yield* store.callersTransaction
      const id = Option.isNone(transaction) ? yield* insertInGroup(run) : (yield* store.insertWithin(transaction.value, [run]))[0]!
      if (Option.isSome(transaction)) announcer.announceLater(hintOf(run))
      if (id === run.id) metrics.sent(1, run.job)
      else yield* Effect.logDebug(`createRun: the unique key is held by run ${id}; nothing was created`)
      return id
    }).pipe(sending(job.name, queueOf(job, options)))

  const createRuns: Jobsd.Service["createRuns"] = (job, payloads, options = {}) =>
    Effect.gen(function* () {
      const shared = yield* template(job, options)
      const runs = yield* Effect.forEach(payloads, (payload) => newRun(job, payload, shared, options))
      if (runs.length === 0) return []
      const transaction = yield* store.callersTransaction
      const ids = yield* Option.isNone(transaction) ? store.insertAll(runs) : store.insertWithin(transaction.value, runs)
      if (Option.isNone(transaction)) announcer.announce([hintOf(shared)])
      else announcer.announceLater(hintOf(shared))
      metrics.sent(ids.length, job.name)
      return ids
    }).pipe(sending(job.name, queueOf(job, options)))

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

  return { createRun, createRuns, cancel, getRunState: latest }
}
