/** An OpenTelemetry SDK whose exporters throw everything away: what is left is the cost of making it. */
import { NodeSdk } from "@effect/opentelemetry"
import { BatchLogRecordProcessor, type LogRecordExporter } from "@opentelemetry/sdk-logs"
import { PeriodicExportingMetricReader, type PushMetricExporter } from "@opentelemetry/sdk-metrics"
import { BatchSpanProcessor, type SpanExporter } from "@opentelemetry/sdk-trace-base"
import { Layer, Logger } from "effect"

const nothing = {
  export: (_: unknown, done: (result: { readonly code: number }) => void) => done({ code: 0 }),
  forceFlush: async () => {},
  shutdown: async () => {}
}

const sdk = NodeSdk.layer(() => ({
  resource: { serviceName: "bench" },
  spanProcessor: new BatchSpanProcessor(nothing as SpanExporter),
  metricReader: new PeriodicExportingMetricReader({ exporter: nothing as PushMetricExporter, exportIntervalMillis: 1000 }),
  logRecordProcessor: new BatchLogRecordProcessor({ exporter: nothing as LogRecordExporter })
}))

// not to the console as well
export const telemetry = Layer.merge(sdk, Logger.remove(Logger.defaultLogger))
