/** Every question asked of the runs table, by subject. */

import * as claim from "./runs/claim.js"
import type { Asker } from "./runs/context.js"
import * as create from "./runs/create.js"
import * as housekeep from "./runs/housekeep.js"
import * as read from "./runs/read.js"
import * as settle from "./runs/settle.js"
import * as sweep from "./runs/sweep.js"

export type { Known } from "./runs/context.js"
export type { NewRun } from "./runs/create.js"
export type { Recorded, Settled } from "./runs/settled.js"

export interface RunStore extends create.Create, read.Read, claim.Claim, settle.Settle, sweep.Sweep, housekeep.Housekeep {}

export const make = (asker: Asker): RunStore => ({
  ...create.make(asker),
  ...read.make(asker),
  ...claim.make(asker),
  ...settle.make(asker),
  ...sweep.make(asker),
  ...housekeep.make(asker)
})
