import type { Measure } from "../harness.ts"
import { create } from "./create.ts"
import { drain, drainTen } from "./drain.ts"
import { pickup } from "./pickup.ts"

/** Every measure, in the order in which a round takes them. */
export const measures: ReadonlyArray<Measure> = [create, drain, drainTen, pickup]
