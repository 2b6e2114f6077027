/** Span, log and metric names in one place. Payloads never appear in any of them. */
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import { liveServices } from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as HashMap from "effect/HashMap"
import type * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import type * as Runtime from "effect/Runtime"
import * as Tracer from "effect/Tracer"
import * as JobsdMetrics from "../JobsdMetrics.js"
import type { ClaimedRun } from "./storage/runRow.js"
import { attemptOf } from "./storage/runRow.js"

const untraced = liveServices.unsafeMap.get(Tracer.Tracer.key)

/** The tracer that receives spans, or null: Effect's own keeps them to itself. */
export const receivingTracer: Effect.Effect<Tracer.Tracer | null> = Effect.zipWith(
  Effect.tracer,
  FiberRef.get(FiberRef.currentTracerEnabled),
  (tracer, isEnabled) => (isEnabled && tracer !== untraced ? tracer : null)
)

/** `send {job}` around createRun, if the fiber's tracer is there to receive it. */
export const sending = <A, E>(
  fiber: Fiber.RuntimeFiber<unknown, unknown>,
  job: string,
  queue: string,
  effect: (fiber: Fiber.RuntimeFiber<unknown, unknown>) => Effect.Effect<A, E>
): Effect.Effect<A, E> =>
  fiber.currentTracer === untraced
    ? effect(fiber)
    : Effect.withSpan(Effect.withFiberRuntime(effect), `send ${job}`, {
        kind: "producer",
        captureStackTrace: false,
        attributes: {
          "messaging.system": "jobsd",
          "messaging.operation.name": "send",
          "messaging.operation.type": "send",
          "messaging.destination.name": queue,
          "jobsd.job": job
        }
      })

/** The W3C `traceparent` of a span, or null. */
export const traceparentOf = (span: Tracer.AnySpan | undefined): string | null =>
  span === undefined ? null : `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}`

const parentOf = (header: string | null): Tracer.ExternalSpan | undefined => {
  const match = header === null ? null : /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(header)
  return match === null
    ? undefined
    : Tracer.externalSpan({ traceId: match[1]!, spanId: match[2]!, sampled: (Number.parseInt(match[3]!, 16) & 1) === 1 })
}

/** An entry of FiberRefs. Its value is made when a log asks for it: to make it takes a tenth of a run that logs nothing. */
class Annotations implements Iterable<unknown> {
  private made: HashMap.HashMap<string, unknown> | undefined
  constructor(
    private readonly fiberId: FiberId.Runtime,
    private readonly shared: HashMap.HashMap<string, unknown>,
    private readonly runId: string
  ) {}
  get 0(): FiberId.Runtime {
    return this.fiberId
  }
  get 1(): HashMap.HashMap<string, unknown> {
    this.made ??= HashMap.set(this.shared, "runId", this.runId)
    return this.made
  }
  *[Symbol.iterator]() {
    yield this[0]
    yield this[1]
  }
}

/**
 * The log annotations of a job's runs, for the fibers of their handlers from the start: cheaper than an effect around the handler.
 * The refs are those that a fork has just made for its fiber, so they are added to and not copied, which would cost 1 us.
 */
export const annotating = (job: string, runtime: Runtime.Runtime<never>) => {
  const inherited = FiberRefs.getOrDefault(runtime.fiberRefs, FiberRef.currentLogAnnotations)
  const first = HashMap.set(HashMap.set(inherited, "job", job as unknown), "attempt", 1 as unknown)
  return (run: ClaimedRun) => {
    const attempt = attemptOf(run)
    const shared = attempt === 1 ? first : HashMap.set(first, "attempt", attempt)
    return (refs: FiberRefs.FiberRefs, fiberId: FiberId.Runtime): FiberRefs.FiberRefs => {
      refs.locals.set(FiberRef.currentLogAnnotations, [new Annotations(fiberId, shared, run.id) as Iterable<unknown> as Entry])
      return refs
    }
  }
}
type Entry = readonly [FiberId.Runtime, HashMap.HashMap<string, unknown>]

/**
 * `process {job}` around the handlers of a job, each a child of the span that created the run. Made of the tracer directly, for whoever
 * starts it also ends it: `Effect.withSpan` would find all of this out for every run anew.
 */
export const processing = (job: string, { fiberRefs }: Runtime.Runtime<never>, tracer: Tracer.Tracer) => {
  const name = `process ${job}`
  const links = Chunk.toReadonlyArray(FiberRefs.getOrDefault(fiberRefs, FiberRef.currentTracerSpanLinks))
  const inherited = HashMap.toEntries(FiberRefs.getOrDefault(fiberRefs, FiberRef.currentTracerSpanAnnotations))
  const start = (run: ClaimedRun, startNanos: bigint): Tracer.Span => {
    const span = tracer.span(name, Option.fromNullable(parentOf(run.traceparent)), Context.empty(), links, startNanos, "consumer")
    for (const [key, value] of inherited) span.attribute(key, value)
    span.attribute("messaging.system", "jobsd")
    span.attribute("messaging.operation.name", "process")
    span.attribute("messaging.operation.type", "process")
    span.attribute("messaging.destination.name", run.queue)
    span.attribute("messaging.message.id", run.id)
    span.attribute("jobsd.job", job)
    span.attribute("jobsd.attempt", attemptOf(run))
    return span
  }
  // a tracer that throws costs a span, and no run
  return {
    start: (run: ClaimedRun, startNanos: bigint): Tracer.Span | null => {
      try {
        return start(run, startNanos)
      } catch {
        return null
      }
    },
    end: (span: Tracer.Span, endNanos: bigint, exit: Exit.Exit<unknown, unknown>): void => {
      try {
        span.end(endNanos, exit)
      } catch {}
    }
  }
}

/** Who speaks, on every log line of a loop; loops make no spans. */
export const loop =
  (fiber: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    effect.pipe(Effect.annotateLogs({ package: "jobsd", fiber }), Effect.withTracerEnabled(false))

/**
 * Counters and histograms with their tags. `Metric.tagged` makes its labels anew at every update, and then has to look for the
 * metric by their hash (1.5 us): the same array each time is found by identity.
 */
const tagged = <In>(metric: Pick<Metric.Metric<any, In, any>, "unsafeUpdate">, ...keys: ReadonlyArray<string>) => {
  const known = new Map<string, ReadonlyArray<MetricLabel.MetricLabel>>()
  return (input: In, ...values: ReadonlyArray<string>): void => {
    const key = values.length === 1 ? values[0]! : values.join("\n")
    let labels = known.get(key)
    if (labels === undefined) {
      labels = keys.map((key, i) => MetricLabel.make(key, values[i]!))
      known.set(key, labels)
    }
    metric.unsafeUpdate(input, labels)
  }
}

export const metrics = {
  sent: tagged(JobsdMetrics.sent, "job"),
  duration: tagged(JobsdMetrics.duration, "job"),
  wait: tagged(JobsdMetrics.wait, "job"),
  runs: tagged(JobsdMetrics.runs, "job", "outcome"),
  rescued: tagged(JobsdMetrics.rescued),
  stale: tagged(JobsdMetrics.stale),
  /** by how many more, or less: instances of one process add up */
  busy: tagged({ unsafeUpdate: JobsdMetrics.busy.unsafeModify }, "queue")
}
