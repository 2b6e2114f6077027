/**
 * The workers of one queue, a bounded fiber semaphore, and the runs that were claimed ahead of a free worker. A worker that ends a
 * run goes straight on to the next one that waits here: no round trip in between, and no permit given back and taken again.
 */
import * as Effect from "effect/Effect"
import type { ClaimedRun } from "../storage/runRow.js"
import { metrics } from "../telemetry.js"

/** A claimed run, and when (monotonic milliseconds) the database's answer was here. */
export interface Claimed {
  readonly run: ClaimedRun
  readonly at: number
}

export interface WorkerPool {
  readonly queue: string
  /** workers with nothing to do */
  readonly free: () => number
  /** tells the metric how many workers are busy, which costs too much to be done for every run */
  readonly tellBusy: () => void
  /** how many runs are worth claiming now; 0: not worth a round trip */
  readonly room: () => number
  /** starts runs on free workers, in order; those that find none wait for one. `more`: there may be more where they come from */
  readonly submit: (claimed: ReadonlyArray<Claimed>, more: boolean) => void
  /** a worker's run has ended, after so many milliseconds, or has not even started */
  readonly ended: (tookMillis: number | null) => void
  /** those that wait for a worker */
  readonly waiting: () => ReadonlyArray<Claimed>
  /** takes back some of those that wait */
  readonly withdraw: (which: (claimed: Claimed) => boolean) => ReadonlyArray<Claimed>
  /** what was claimed ahead was not started as soon as we had thought: claim less */
  readonly slower: () => void
}

/** Claimed ahead is only what the workers will start within so many milliseconds, judged by how long recent runs took. */
const horizonMillis = 50
/**
 * The most runs claimed ahead, and the most bytes of their payloads. While one half of them runs, the other is being claimed: with
 * 500, workers waited for the database a third of the time; with 1,000, a warm drain on PostgreSQL took a tenth longer than with these
 * (2,000: as long). Where claims stop the whole process, each should be short.
 */
const aheadLimit = 1500
const aheadLimitAtOnce = 250
const aheadBytes = 16 * 1024 * 1024
/** Handlers that never wait follow one another without a pause, and hold up the rest of the process, for no longer than this. */
const burstMillis = 5

export const make = (options: {
  readonly queue: string
  readonly workers: number
  /** whether the driver is synchronous */
  readonly answersAtOnce: boolean
  /** starts a run on a worker; calls `ended` when its fiber has ended, which may be at once */
  readonly start: (claimed: Claimed, pool: WorkerPool) => void
  /** called when there is room again */
  readonly roomAgain: () => void
}): WorkerPool => {
  const { queue, roomAgain, start, workers } = options
  const limit = options.answersAtOnce ? aheadLimitAtOnce : aheadLimit
  const semaphore = Effect.unsafeMakeSemaphore(workers)
  let waiting: Array<Claimed> = []
  let next = 0
  let busy = 0
  let told = 0
  /** permits of workers that are between two runs; one that has nothing to do keeps its own, so that the next run starts sooner */
  let between = 1
  Effect.runSync(semaphore.take(between))
  let pumping = false
  // slow until shown otherwise: the runs of a job that takes hours must not wait behind one another
  let averageMillis = Number.POSITIVE_INFINITY
  let averageBytes = 0

  const countWaiting = () => waiting.length - next

  const ahead = () => {
    const startable = (workers * horizonMillis) / averageMillis
    return startable < 1 ? 0 : Math.floor(Math.min(startable, limit, aheadBytes / Math.max(averageBytes, 1)))
  }

  const pump = () => {
    if (pumping) return
    pumping = true
    const pausedAt = performance.now() + burstMillis
    const isTold = options.answersAtOnce || pool.room() > 0
    while (busy < workers && next < waiting.length) {
      const isTimeToAsk = !isTold && pool.room() > 0
      if (isTimeToAsk || performance.now() > pausedAt) {
        setImmediate(goOn)
        // the next claim is on its way while these run
        if (isTimeToAsk) roomAgain()
        return
      }
      if (between > 0) between--
      // throws if there were none: more at work than workers is a mistake of ours
      else Effect.runSync(semaphore.take(1))
      busy++
      start(waiting[next++]!, pool)
    }
    if (next === waiting.length) {
      waiting = []
      next = 0
    }
    pumping = false
    if (between > 1) {
      Effect.runSync(semaphore.release(between - 1))
      between = 1
    }
  }

  const pumpAndAsk = () => {
    pump()
    if (!pumping && pool.room() > 0) roomAgain()
  }
  const goOn = () => {
    pumping = false
    pumpAndAsk()
  }

  const pool: WorkerPool = {
    queue,
    free: () => workers - busy,
    tellBusy: () => {
      metrics.busy(busy - told, queue)
      told = busy
    },
    room: () => {
      const target = ahead()
      const room = workers - busy + target - countWaiting()
      // a claim costs a round trip however small it is: let half of what is claimed ahead be used up first
      return room >= Math.max(1, target / 2) ? room : 0
    },
    submit: (claimed, more) => {
      averageBytes = averaged(averageBytes, claimed)
      waiting = waiting.slice(next).concat(claimed)
      next = 0
      // the next claim goes first: the database is at work on it while these run
      if (more && !options.answersAtOnce && !pumping) {
        pumping = true
        setImmediate(goOn)
      } else pump()
    },
    ended: (tookMillis) => {
      busy--
      between++
      if (tookMillis !== null) {
        averageMillis =
          averageMillis === Number.POSITIVE_INFINITY
            ? tookMillis
            : averageMillis + (tookMillis - averageMillis) * (tookMillis > averageMillis ? 0.5 : 0.1)
      }
      pumpAndAsk()
    },
    waiting: () => waiting.slice(next),
    withdraw: (which) => {
      const all = waiting.slice(next)
      const taken = all.filter(which)
      waiting = all.filter((claimed) => !taken.includes(claimed))
      next = 0
      return taken
    },
    slower: () => {
      averageMillis = Math.max(averageMillis, workers * horizonMillis * 2)
    }
  }
  return pool
}

/** A function of its own, for V8 compiles a loop with all that is around it: the start of a run, in this case. */
const averaged = (average: number, claimed: ReadonlyArray<Claimed>): number =>
  claimed.reduce((average, { run }) => average + (run.payload.length - average) * 0.1, average)
