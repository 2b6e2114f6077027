/** Hears of runs that others create, where the database lets it; begins again when that fails. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { Hint, Hints } from "../storage/hints.js"

/** What was missed while nothing could be heard is found by polling. */
const again = Schedule.jittered(Schedule.union(Schedule.exponential("1 second"), Schedule.spaced("30 seconds")))

export const listen = ({ listen }: Hints, heard: (hint: Hint) => void): Effect.Effect<void> =>
  listen === null
    ? Effect.never
    : listen(heard).pipe(
        Effect.zipRight(Effect.fail("it ended" as const)),
        Effect.sandbox,
        Effect.tapError((cause) => Effect.logDebug("cannot listen for runs; polling goes on", cause)),
        Effect.retry(again),
        Effect.ignore
      )
