/**
 * The metrics of jobsd, as Effect metrics: give the program a metrics exporter and they are there. Names follow OpenTelemetry's
 * messaging conventions where it has a word.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"

const seconds = MetricBoundaries.fromIterable([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300])

/**
 * Runs created, by `job`. A createRun that found its unique key held counts nothing.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.sent))
 *
 * @since 0.1.0
 * @category metrics
 */
export const sent: Metric.Metric.Counter<number> = Metric.counter("messaging.client.sent.messages", {
  description: "runs created",
  incremental: true
})

/**
 * Seconds that attempts took, by `job`.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.duration))
 *
 * @since 0.1.0
 * @category metrics
 */
export const duration: Metric.Metric.Histogram<number> = Metric.histogram(
  "messaging.process.duration",
  seconds,
  "seconds that attempts took"
)

/**
 * Seconds between the moment a run was due and the moment it was claimed, by `job`.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.wait))
 *
 * @since 0.1.0
 * @category metrics
 */
export const wait: Metric.Metric.Histogram<number> = Metric.histogram("jobsd.run.wait.duration", seconds, "seconds from due to claimed")

/**
 * Recorded outcomes, by `job` and `outcome` (succeeded, failed, retried, cancelled, released).
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.runs))
 *
 * @since 0.1.0
 * @category metrics
 */
export const runs: Metric.Metric.Counter<number> = Metric.counter("jobsd.runs", {
  description: "recorded outcomes of runs",
  incremental: true
})

/**
 * Runs of dead instances, and overdue ones, that this instance put back.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.rescued))
 *
 * @since 0.1.0
 * @category metrics
 */
export const rescued: Metric.Metric.Counter<number> = Metric.counter("jobsd.runs.rescued", {
  description: "runs put back for others",
  incremental: true
})

/**
 * Outcomes that came too late: the run had been taken back meanwhile, and nothing was recorded.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.stale))
 *
 * @since 0.1.0
 * @category metrics
 */
export const stale: Metric.Metric.Counter<number> = Metric.counter("jobsd.settlements.stale", {
  description: "outcomes that came too late and were not recorded",
  incremental: true
})

/**
 * Workers that have an attempt to work on, by `queue`.
 *
 * @example
 * import { Metric } from "effect"
 * import { JobsdMetrics } from "jobsd"
 *
 * console.log(Metric.value(JobsdMetrics.busy))
 *
 * @since 0.1.0
 * @category metrics
 */
export const busy: Metric.Metric.Gauge<number> = Metric.gauge("jobsd.workers.busy", {
  description: "workers with an attempt to work on"
})
