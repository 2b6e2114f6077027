import type { Measure } from "../harness.ts"
import { create } from "./create.ts"
import { drain, drainTen, drainWarm, two } from "./drain.ts"
import { growth } from "./growth.ts"
import { idle } from "./idle.ts"
import { load } from "./load.ts"
import { retention, waiting } from "./million.ts"
import { pickup } from "./pickup.ts"
import { sharing } from "./sharing.ts"
import { telemetry } from "./telemetry.ts"

/** Every measure, in the order in which a round takes them. */
export const measures: ReadonlyArray<Measure> = [
  create,
  drain,
  drainWarm,
  drainTen,
  pickup,
  load,
  two,
  idle,
  growth,
  waiting,
  retention,
  sharing,
  telemetry
]
