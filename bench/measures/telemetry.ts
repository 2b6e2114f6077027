import type { Measure } from "../harness.ts"
import { drainFresh } from "./drain.ts"

/** T: the drain with spans, logs and metrics, each run writing one line, next to one without. */
export const telemetry: Measure = {
  letter: "T",
  title: "Drain with an OpenTelemetry SDK whose exporters do nothing, against one without",
  rounds: { short: 0, full: 3 },
  columns: [
    { figure: "off", title: "off, runs/s" },
    { figure: "on", title: "on, runs/s" },
    { figure: "share", title: "on / off" },
    { figure: "cpu", title: "CPU µs/run more" }
  ],
  suits: ({ name, on }) => name === "jobsd" && on === "postgres",
  run: async (cell) => {
    const off = await drainFresh(cell)
    const on = await drainFresh(cell, { variant: "telemetry" })
    return { off: off.rate!, on: on.rate!, share: on.rate! / off.rate!, cpu: on.cpu! - off.cpu! }
  }
}
