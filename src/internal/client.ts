/** createRun, cancel and getRunState: what a program asks of the table, with or without an instance beside it. */
import { createHash } from "node:crypto"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import type { InstanceId } from "../Instance.js"
import type { Job } from "../Job.js"
import type { Jobsd } from "../Jobsd.js"
import { OptionError, PayloadError, RunNotFound, ScheduleError, StorageError } from "../JobsdError.js"
import type { RunId, RunState } from "../Run.js"
import type { Announcer } from "./announcer.js"
import { describeParseError } from "./failureText.js"
import * as groups from "./groups.js"
import { lastMoment, nextMoment } from "./lifecycle.js"
import { momentOf } from "./moment.js"
import { backoffSteps, mergePolicy, nameIssue, priorityIssue, type Resolved, replay, textIssue } from "./settings.js"
import type { Hint } from "./storage/hints.js"
import type { NewRun, RunStore } from "./storage/runStore.js"
import type { Session } from "./storage/session.js"
import { metrics, sending, traceparentOf } from "./telemetry.js"
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

/** A value that is there at once, unless what makes it is an effect or fails. */
type AtOnce<A, E> = A | Effect.Effect<A, E>

/** The JSON text of a payload. A schema without effects is encoded without a fiber. */
const encodePayload = (job: Job.Any, payload: unknown, limit: number): AtOnce<Encoded, PayloadError> => {
  const encoded = ParseResult.encodeUnknown(job.payloadSchema)(payload)
  return Either.isEither(encoded) && Either.isRight(encoded)
    ? stored(job, encoded.right, limit)
    : Effect.flatMap(
        Effect.mapError(
          encoded,
          (issue) => new PayloadError({ job: job.name, issue: describeParseError(new ParseResult.ParseError({ issue })) })
        ),
        (encoded) => asEffect(stored(job, encoded, limit))
      )
}

const asEffect = <A extends object, E>(value: AtOnce<A, E>): Effect.Effect<A, E> => (Effect.isEffect(value) ? value : Effect.succeed(value))

interface Encoded {
  readonly payload: string
  readonly payloadBytes: number
}

const stored = (job: Job.Any, encoded: unknown, limit: number): AtOnce<Encoded, PayloadError> => {
  let payload: string
  try {
    payload = JSON.stringify(encoded) ?? ""
  } catch {
    return new PayloadError({ job: job.name, issue: "what its schema encodes it to is not JSON" })
  }
  const payloadBytes = Buffer.byteLength(payload)
  return payloadBytes > limit
    ? new PayloadError({ job: job.name, issue: `it has ${payloadBytes} bytes, payloadLimit is ${limit}` })
    : { payload, payloadBytes }
}

/** A run as its job and the options of createRun describe it, whatever its payload is and whoever creates it. */
type Template = Omit<NewRun, "id" | "backoff" | "createdBy" | "traceparent" | keyof Encoded>

/** What most runs are created with. */
const noOptions = {} satisfies Jobsd.CreateRunOptions

export const make = (store: RunStore, settings: Resolved, local: Local): Omit<Jobsd.Service, "instance" | "hurry"> => {
  const { announcer } = local
  const hintOf = ({ delayMillis, queue, runAt }: Pick<NewRun, "queue" | "runAt" | "delayMillis">): Hint => ({
    queue: runAt === null && delayMillis === 0 ? queue : null
  })

  // a hint that may be told now goes with the runs: one round trip less until another process has them
  const insertAndTell = (group: ReadonlyArray<NewRun>) => {
    const first = hintOf(group[0]!)
    // one with a key waits for a transaction that has created the same
    const waits = group.some(({ uniqueKey }) => uniqueKey !== null)
    const told = announcer.mayTell(first, waits) ? first : null
    return Effect.matchEffect(store.insert(group, told === null ? null : announcer.word(told)), {
      onSuccess: (ids) => {
        const hints = group.length === 1 ? [first] : new Map(group.map((run) => [hintOf(run).queue, hintOf(run)])).values()
        announcer.announce(hints, told)
        return Effect.succeed(ids)
      },
      // it may have stood for earlier ones, too
      onFailure: (error) => {
        if (told !== null) announcer.announce([told])
        return Effect.fail(error)
      }
    })
  }
  const insertInGroup = groups.make({
    fitting: store.fitting,
    write: insertAndTell,
    answersAtOnce: store.answersAtOnce,
    isOnes: (error) => error.reason === "rejected"
  })

  /** the first moment of a scheduled run: the rule applied to the database's now plus the delay */
  const firstMoment = (
    schedule: NonNullable<Jobsd.CreateRunOptions["schedule"]>,
    runAt: number | null,
    delay: number,
    transaction: Session | null
  ) =>
    Effect.flatMap(store.now(transaction), (now) => {
      const next = nextMoment((after) => schedule.next(momentOf(after)).epochMillis, (runAt ?? now) + delay, Number.NEGATIVE_INFINITY)
      return typeof next === "number" ? Effect.succeed(next) : new ScheduleError({ schedule: schedule.name, issue: next })
    })

  const described = (job: Job.Any, options: Jobsd.CreateRunOptions): Template | OptionError => {
    const queue = queueOf(job, options)
    const priority = options.priority ?? job.priority ?? 5
    const { limit, runAt, schedule, unique } = options
    const wrong = wrongOption(job, queue, priority, options)
    if (wrong !== null) return wrong
    const delay = Duration.decodeUnknown(options.delay ?? 0)
    if (Option.isNone(delay) || !Duration.isFinite(delay.value)) {
      return new OptionError({ option: "delay", issue: "expected a finite duration" })
    }
    const policy = mergePolicy(settings.policy, job.policy, options)
    if (Either.isLeft(policy)) return new OptionError(policy.left)
    const delayMillis = Math.round(Duration.toMillis(delay.value))
    const at = runAt === undefined ? null : Math.round(DateTime.toEpochMillis(runAt))
    if (Math.abs((at ?? Date.now()) + delayMillis) > lastMoment) {
      return new OptionError({
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
      runAt: at,
      delayMillis,
      ...policy.right,
      successLimit: limit ?? null
    }
  }

  // one for each job that is asked for without options
  const plain = new WeakMap<Job.Any, Template>()
  const template = (
    job: Job.Any,
    options: Jobsd.CreateRunOptions,
    transaction: Session | null
  ): AtOnce<Template, OptionError | ScheduleError | StorageError> => {
    const known = options === noOptions ? plain.get(job) : undefined
    if (known !== undefined) return known
    const template = described(job, options)
    if (template instanceof OptionError) return template
    if (options === noOptions) plain.set(job, template)
    const { schedule } = options
    return schedule === undefined
      ? template
      : Effect.map(firstMoment(schedule, template.runAt, template.delayMillis, transaction), (runAt) => ({
          ...template,
          runAt,
          delayMillis: 0
        }))
  }

  const newRun = (
    job: Job.Any,
    payload: unknown,
    template: Template,
    options: Jobsd.CreateRunOptions,
    traceparent: string | null
  ): AtOnce<NewRun, PayloadError> => {
    const id = uuidv7(Date.now()) as RunId
    const run = ({ payload, payloadBytes }: Encoded, backoff: string | null): NewRun => ({
      // first: then it is cloned, not copied property by property
      ...template,
      id,
      backoff,
      createdBy: local.id(),
      traceparent,
      payload,
      payloadBytes
    })
    const encoded = encodePayload(job, payload, settings.payloadLimit)
    return options.backoff === undefined
      ? Effect.isEffect(encoded)
        ? Effect.map(encoded, (encoded) => run(encoded, null))
        : run(encoded, null)
      : Effect.zipWith(asEffect(encoded), replay(options.backoff, backoffSteps, id), (encoded, backoff) =>
          run(encoded, JSON.stringify(backoff))
        )
  }

  const queueOf = (job: Job.Any, options: Jobsd.CreateRunOptions) => options.queue ?? job.queue ?? "default"

  const insertOne = (run: NewRun, transaction: Session | null) =>
    transaction === null
      ? insertInGroup(run)
      : Effect.map(store.insertWithin(transaction, [run]), ([id]) => {
          announcer.announceLater(hintOf(run))
          return id!
        })

  const sent = <A>(
    job: Job.Any,
    options: Jobsd.CreateRunOptions,
    effect: (fiber: Fiber.RuntimeFiber<unknown, unknown>) => Effect.Effect<A, Jobsd.CreateRunError>
  ) => Effect.withFiberRuntime<A, Jobsd.CreateRunError>((fiber) => sending(fiber, job.name, queueOf(job, options), effect))

  const createRun: Jobsd.Service["createRun"] = (job, payload, options = noOptions) =>
    sent<RunId>(job, options, (fiber) => {
      const transaction = store.transactionOf(fiber.currentContext)
      const traceparent = traceparentOf(fiber.currentSpan)
      const create = (run: NewRun) =>
        Effect.flatMap(insertOne(run, transaction), (id) => {
          if (id !== run.id) return Effect.as(Effect.logDebug(`createRun: the unique key is held by run ${id}; nothing was created`), id)
          metrics.sent(1, run.job)
          return Effect.succeed(id)
        })
      const shared = template(job, options, transaction)
      const run = Effect.isEffect(shared)
        ? Effect.flatMap(shared, (shared) => asEffect(newRun(job, payload, shared, options, traceparent)))
        : newRun(job, payload, shared, options, traceparent)
      return Effect.isEffect(run) ? Effect.flatMap(run, create) : create(run)
    })

  const createRuns: Jobsd.Service["createRuns"] = (job, payloads, options = noOptions) =>
    sent<ReadonlyArray<RunId>>(job, options, (fiber) =>
      Effect.gen(function* () {
        const transaction = store.transactionOf(fiber.currentContext)
        const traceparent = traceparentOf(fiber.currentSpan)
        const shared = yield* asEffect(template(job, options, transaction))
        const runs: Array<NewRun> = []
        for (const payload of payloads) {
          const run = newRun(job, payload, shared, options, traceparent)
          runs.push(Effect.isEffect(run) ? yield* run : run)
        }
        if (runs.length === 0) return []
        const ids = yield* transaction !== null
          ? Effect.tap(store.insertWithin(transaction, runs), () => announcer.announceLater(hintOf(shared)))
          : store.isOneStatement(runs)
            ? insertAndTell(runs)
            : Effect.tap(store.insertAll(runs), () => announcer.announce([hintOf(shared)]))
        metrics.sent(ids.length, job.name)
        return ids
      })
    )

  // an id comes in from outside: what is no UUID is no run either, and databases compare the letters of one differently
  const latest = (id: RunId, transaction: Session | null) =>
    isUuid(id)
      ? Effect.flatMap(
          store.latestOfChain(id.toLowerCase() as RunId, transaction),
          Option.match({ onNone: () => new RunNotFound({ id }), onSome: Effect.succeed })
        )
      : new RunNotFound({ id })

  const getRunState: Jobsd.Service["getRunState"] = (id) =>
    Effect.withFiberRuntime((fiber) => latest(id, store.transactionOf(fiber.currentContext)))

  // each round looks first; the state can change between the look and the write, but only forwards
  const cancelRounds = 5
  const cancel: Jobsd.Service["cancel"] = (id) =>
    Effect.withFiberRuntime((fiber) => {
      const transaction = store.transactionOf(fiber.currentContext)
      return Effect.gen(function* () {
        for (let round = 0; round < cancelRounds; round++) {
          const run: RunState = yield* latest(id, transaction)
          switch (run.status) {
            case "ready":
            case "parked":
              if (yield* store.cancelWaiting(run.id, transaction)) return "cancelled"
              break
            case "running":
              if (yield* store.requestCancel(run.id, transaction)) {
                // whoever holds the run hears of it with a heartbeat once the transaction has committed
                if (transaction === null) local.cancel(run.id)
                return "requested"
              }
              break
            case "cancelled":
              // by us, if the answer to that was lost, or by somebody else meanwhile
              return round === 0 ? "finished" : "cancelled"
            default:
              return "finished"
          }
        }
        // a transaction that goes on seeing what was true when it began
        return yield* new StorageError({ operation: "cancel a run", reason: "contention" })
      })
    })

  return { createRun, createRuns, cancel, getRunState }
}
