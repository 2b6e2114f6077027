/** The workers of one queue: a bounded fiber semaphore. A permit is taken for each claimed run and released when its fiber ends. */
import * as Effect from "effect/Effect"

export interface WorkerPool {
  readonly queue: string
  /** how many runs could start now */
  readonly free: () => number
  readonly busy: () => number
  /** takes a permit; the caller has looked at `free` and there is no other caller */
  readonly take: () => void
  /** gives a permit back, once per taken one, when the fiber has ended */
  readonly release: () => void
}

export const make = (queue: string, workers: number): WorkerPool => {
  const semaphore = Effect.unsafeMakeSemaphore(workers)
  let free = workers
  return {
    queue,
    free: () => free,
    busy: () => workers - free,
    take: () => {
      // throws if there were none: more claimed than workers is a mistake of ours
      free -= Effect.runSync(semaphore.take(1))
    },
    release: () => {
      Effect.runSync(semaphore.release(1))
      free += 1
    }
  }
}
