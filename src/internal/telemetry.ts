/** Span, log and metric names in one place. Payloads never appear in any of them. */
import { liveServices } from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as HashMap from "effect/HashMap"
import type * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import type * as Runtime from "effect/Runtime"
import * as Tracer from "effect/Tracer"
import * as JobsdMetrics from "../JobsdMetrics.js"
import type { ClaimedRun } from "./storage/runRow.js"
import { attemptOf } from "./storage/runRow.js"

const untraced = liveServices.unsafeMap.get(Tracer.Tracer.key)

/** whether there is a tracer to receive spans; Effect's own keeps them to itself */
export const isTraced: Effect.Effect<boolean> = Effect.map(Effect.tracer, (tracer) => tracer !== untraced)

/** `send {job}` around createRun. */
export const sending =
  (job: string, queue: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withFiberRuntime((fiber) =>
      fiber.currentTracer !== untraced
        ? Effect.withSpan(effect, `send ${job}`, {
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
        : effect
    )

/** The W3C `traceparent` of a span, or null. */
export const traceparentOf = (span: Tracer.AnySpan | undefined): string | null =>
  span === undefined ? null : `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}`

const parentOf = (header: string | null): Tracer.ExternalSpan | undefined => {
  const match = header === null ? null : /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(header)
  return match === null
    ? undefined
    : Tracer.externalSpan({ traceId: match[1]!, spanId: match[2]!, sampled: (Number.parseInt(match[3]!, 16) & 1) === 1 })
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
    const annotations = HashMap.set(attempt === 1 ? first : HashMap.set(first, "attempt", attempt), "runId", run.id as unknown)
    return (refs: FiberRefs.FiberRefs, fiberId: FiberId.Runtime): FiberRefs.FiberRefs => {
      refs.locals.set(FiberRef.currentLogAnnotations, [[fiberId, annotations]])
      return refs
    }
  }
}

/** `process {job}` around a handler, child of the span that created the run. */
export const processing =
  (run: ClaimedRun) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
    const parent = parentOf(run.traceparent)
    return Effect.withSpan(effect, `process ${run.job}`, {
      kind: "consumer",
      captureStackTrace: false,
      ...(parent === undefined ? { root: true } : { parent }),
      attributes: {
        "messaging.system": "jobsd",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": run.queue,
        "messaging.message.id": run.id,
        "jobsd.job": run.job,
        "jobsd.attempt": attemptOf(run)
      }
    }) as Effect.Effect<A, E, R>
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
const tagged = <In, Out>(metric: Metric.Metric<any, In, Out>, ...keys: ReadonlyArray<string>) => {
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
  busy: tagged(JobsdMetrics.busy, "queue")
}
