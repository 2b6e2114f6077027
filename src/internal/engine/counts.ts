/** What an instance has done since it started, as numbers that go up. */
import type { InstanceCounts } from "../../Instance.js"
import { isWaiting, type Outcome, type Settlement } from "../lifecycle.js"

export interface Counts {
  readonly started: () => void
  readonly settled: (outcome: Outcome, settlement: Settlement) => void
  readonly rescued: (runs: number) => void
  readonly current: () => InstanceCounts
}

export const make = (): Counts => {
  const counts = {
    started: 0,
    succeeded: 0,
    errors: 0,
    timedOut: 0,
    cancelled: 0,
    rescheduled: 0,
    released: 0,
    rescued: 0
  }
  return {
    started: () => {
      counts.started++
    },
    settled: (outcome, settlement) => {
      if (outcome._tag === "Succeeded") counts.succeeded++
      else if (outcome._tag === "Errored") counts.errors++
      else if (outcome._tag === "TimedOut") counts.timedOut++
      else if (outcome._tag === "Cancelled") counts.cancelled++
      else if (outcome._tag === "Released") counts.released++
      if (settlement.successor !== null || (isWaiting(settlement.state) && outcome._tag !== "Released")) counts.rescheduled++
    },
    rescued: (runs) => {
      counts.rescued += runs
    },
    current: () => ({ ...counts })
  }
}
