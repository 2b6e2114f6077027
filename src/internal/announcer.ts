/** Tells other instances about new runs: at once, and then at most every 5 ms for each queue. One word stands for many runs. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { announceEvery, type Hint, type Hints } from "./storage/hints.js"

export interface Announcer {
  /** runs are there; what `toldWith` says was told by the statement that created them */
  readonly announce: (hints: Iterable<Hint>, toldWith?: Hint | null) => void
  /** runs will be there when somebody's transaction commits, and nobody says when that is */
  readonly announceLater: (hint: Hint) => void
  /** whether this may be told now; if so it counts as told, and the pause begins */
  readonly mayTell: (hint: Hint) => boolean
  /** as the database carries it */
  readonly word: (hint: Hint) => string
}

const millis = Duration.toMillis(announceEvery)
/** A transaction that creates runs is mostly over after one of these. */
const laterMillis = [20, 100, 500]

export const make = ({ announce, word }: Hints, here: (hint: Hint) => void): Announcer => {
  /** what is to be told again when the pause is over, by queue */
  const paused = new Map<string | null, boolean>()

  const mayTell = (hint: Hint): boolean => {
    if (announce === null) return false
    if (paused.has(hint.queue)) {
      paused.set(hint.queue, true)
      return false
    }
    paused.set(hint.queue, false)
    setTimeout(() => {
      const again = paused.get(hint.queue)
      paused.delete(hint.queue)
      if (again) tell(hint)
    }, millis).unref()
    return true
  }
  const tell = (hint: Hint): void => {
    if (mayTell(hint)) Effect.runFork(Effect.ignore(announce!(hint)))
  }
  const announceAll: Announcer["announce"] = (hints, toldWith) => {
    for (const hint of hints) {
      here(hint)
      if (hint.queue !== toldWith?.queue) tell(hint)
    }
  }
  return {
    announce: announceAll,
    announceLater: (hint) => {
      for (const later of laterMillis) setTimeout(() => announceAll([hint]), later).unref()
    },
    mayTell,
    word
  }
}
