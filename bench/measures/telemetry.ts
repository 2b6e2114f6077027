import type { Measure } from "../harness.ts"
import { drainCount, drainFresh } from "./drain.ts"

/** T: the drain with spans, logs and metrics, each run writing one line, next to one without; warm: by processes that were at work for a while. */
export const telemetry: Measure = {
  letter: "T",
  title: "Drain with an OpenTelemetry SDK whose exporters do nothing, against one without",
  rounds: { short: 0 },
  columns: [
    { figure: "off", title: "off, runs/s" },
    { figure: "on", title: "on, runs/s" },
    { figure: "share", title: "on / off" },
    { figure: "cpu", title: "CPU µs/run more" },
    { figure: "shareWarm", title: "warm, on / off" },
    { figure: "cpuWarm", title: "warm, CPU µs/run more" }
  ],
  suits: ({ name, on }) => name === "jobsd" && on === "postgres",
  run: async (cell) => {
    const variant = "telemetry"
    const warm = 2 * drainCount(cell)
    const off = await drainFresh(cell)
    const on = await drainFresh(cell, { variant })
    const offWarm = await drainFresh(cell, { warm })
    const onWarm = await drainFresh(cell, { variant, warm })
    return {
      off: off.rate!,
      on: on.rate!,
      share: on.rate! / off.rate!,
      cpu: on.cpu! - off.cpu!,
      shareWarm: onWarm.rate! / offWarm.rate!,
      cpuWarm: onWarm.cpu! - offWarm.cpu!
    }
  }
}
