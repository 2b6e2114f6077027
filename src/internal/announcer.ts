/** Tells other instances about new runs: at once, and then at most every 25 ms for each queue. One word stands for many runs. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { announceEvery, type Hint, type Hints } from "./storage/hints.js"

export interface Announcer {
  /** a run is there; `queue`: due now in this one, null: due later */
  readonly announce: (hint: Hint) => void
  /** a run will be there when somebody's transaction commits, and nobody says when that is */
  readonly announceLater: (hint: Hint) => void
}

const millis = Duration.toMillis(announceEvery)
/** A transaction that creates runs is mostly over after one of these. */
const laterMillis = [20, 100, 500]

export const make = ({ announce }: Pick<Hints, "announce">, here: (hint: Hint) => void): Announcer => {
  /** what is to be said again when the pause is over, by queue */
  const paused = new Map<string | null, boolean>()

  const say = (hint: Hint): void => {
    if (announce === null) return
    if (paused.has(hint.queue)) {
      paused.set(hint.queue, true)
      return
    }
    paused.set(hint.queue, false)
    Effect.runFork(Effect.ignore(announce(hint)))
    setTimeout(() => {
      const again = paused.get(hint.queue)
      paused.delete(hint.queue)
      if (again) say(hint)
    }, millis).unref()
  }
  const tell = (hint: Hint): void => {
    here(hint)
    say(hint)
  }
  return {
    announce: tell,
    announceLater: (hint) => {
      for (const later of laterMillis) setTimeout(() => tell(hint), later).unref()
    }
  }
}
