/** Tells other instances about new runs: at once, and then at most every 5 ms for each queue. One word stands for many runs. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { announceEvery, type Hint, type Hints } from "./storage/hints.js"

export interface Announcer {
  /** runs are there; what `toldWith` says was told by the statement that created them */
  readonly announce: (hints: Iterable<Hint>, toldWith?: Hint | null) => void
  /** runs will be there when somebody's transaction commits, and nobody says when that is */
  readonly announceLater: (hint: Hint) => void
  /**
   * whether this may be told now, with the statement that creates the runs; if so it counts as told, and the pause begins. `waits`: it may
   * wait for somebody, and cannot stand for earlier runs
   */
  readonly mayTell: (hint: Hint, waits: boolean) => boolean
  /** as the database carries it */
  readonly word: (hint: Hint) => string
}

const millis = Duration.toMillis(announceEvery)
/**
 * What was created in a pause is told when it is over: with the runs that are created next, if they come so soon, for a word by itself
 * is a commit beside theirs. That took 37 of 448 us from each of those who create one run after the other.
 */
const owedMillis = 2

/** What was told last, and what is to be told after it. */
interface Pause {
  again: boolean
  /** it is over, and the next word is waited for */
  owed: NodeJS.Timeout | null
}

/** A transaction that creates runs is mostly over after one of these. */
const laterMillis = [20, 100, 500]

export const make = ({ announce, word }: Hints, here: (hint: Hint) => void): Announcer => {
  /** by queue */
  const pauses = new Map<string | null, Pause>()

  const begin = (hint: Hint): void => {
    const pause: Pause = { again: false, owed: null }
    pauses.set(hint.queue, pause)
    setTimeout(() => {
      if (pause.again) pause.owed = setTimeout(() => tell(hint), owedMillis).unref()
      else pauses.delete(hint.queue)
    }, millis).unref()
  }
  const tell = (hint: Hint): void => {
    if (announce === null) return
    begin(hint)
    Effect.runFork(Effect.ignore(announce(hint)))
  }
  const mayTell: Announcer["mayTell"] = (hint, waits) => {
    if (announce === null) return false
    const last = pauses.get(hint.queue)
    if (last !== undefined) {
      if (last.owed === null || waits) return false
      clearTimeout(last.owed)
    }
    begin(hint)
    return true
  }
  const announceAll: Announcer["announce"] = (hints, toldWith) => {
    for (const hint of hints) {
      here(hint)
      if (hint.queue === toldWith?.queue) continue
      const last = pauses.get(hint.queue)
      if (last === undefined) tell(hint)
      else last.again = true
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
