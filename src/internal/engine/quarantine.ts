/**
 * At most one suspect of an instance is in its first seconds: a run that kills its process does it alone. Whoever has lived
 * through them is no longer suspected of it, and the next one may start.
 */
import type * as Clock from "effect/Clock"
import { monotonicMillis } from "./deadlines.js"

export interface Quarantine {
  readonly enter: (id: string) => void
  /** milliseconds until another suspect may start; not positive: now */
  readonly freeIn: () => number
}

/** Processes die of a run soon after it starts. */
const suspicionMillis = 10_000

export const make = (clock: Clock.Clock, isHere: (id: string) => boolean): Quarantine => {
  let suspect: { readonly id: string; readonly until: number } | null = null
  return {
    enter: (id) => {
      suspect = { id, until: monotonicMillis(clock) + suspicionMillis }
    },
    freeIn: () => (suspect === null || !isHere(suspect.id) ? 0 : suspect.until - monotonicMillis(clock))
  }
}
