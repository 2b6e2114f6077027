/**
 * What the fault tests share: how much they do, the seed of their choices, and the figures they print. `JOBSD_FAULTS=large` asks for
 * the large counts, `JOBSD_SEED` repeats the choices of an earlier run, `JOBSD_FAULTS_REPORT` names a file for the figures.
 */
import { appendFileSync } from "node:fs"

export const large = process.env.JOBSD_FAULTS === "large"

/** A count: small in every run of the tests, large when it is asked for. */
export const scaled = (small: number, many: number): number => (large ? many : small)

/** The time limit of a test whose small form may take so many seconds. */
export const limit = (seconds: number, secondsWhenLarge: number): { readonly timeout: number } => ({
  timeout: scaled(seconds, secondsWhenLarge) * 1000
})

export const seed: number = Number(process.env.JOBSD_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** mulberry32: small, fast, and the same everywhere */
const generator = (start: number) => {
  let state = start >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export interface Choices {
  readonly between: (from: number, to: number) => number
  readonly oneOf: <A>(options: ReadonlyArray<A>) => A
  readonly chance: (probability: number) => boolean
}

/** The choices of one test. They depend on the seed and the test's name, not on which tests ran before. */
export const choicesFor = (test: string): Choices => {
  console.log(`${test}: JOBSD_SEED=${seed}`)
  const next = generator([...test].reduce((sum, letter) => Math.imul(sum, 31) + letter.charCodeAt(0), seed))
  const between = (from: number, to: number) => from + next() * (to - from)
  return { between, oneOf: (options) => options[Math.floor(next() * options.length)]!, chance: (probability) => next() < probability }
}

/** A line of the table that `npm run faults` prints. */
export interface Figure {
  /** orders the lines: what is about the same kind of fault stands together */
  readonly row: number
  readonly what: string
  readonly database: string
  /** how many faults happened */
  readonly count: number
  readonly result: "passed" | "failed"
  readonly figure: string
}

export const report = (figure: Figure): void => {
  const file = process.env.JOBSD_FAULTS_REPORT
  if (file) appendFileSync(file, `${JSON.stringify({ ...figure, seed })}\n`)
}

/** The value below which so much of the values lie. */
export const percentile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

/** For how many seconds a load is watched before the faults, and from which second to which after the last of them. */
const watched = large ? { before: 10, from: 10, until: 20 } : { before: 2, from: 1, until: 3 }

export const secondsWatched: { readonly before: number; readonly after: number } = { before: watched.before, after: watched.until }

/** What came back of the throughput must be so much of it, when the counts are large: a small run has too few seconds to tell. */
export const recoveredShare = 0.8

export interface Recovery {
  /** completions per second, medians */
  readonly before: number
  readonly after: number
  readonly ratio: number
  readonly figure: string
}

/** How much was done in a second before the faults and once they were over, from the moments of everything that was completed. */
export const recovery = (completed: ReadonlyArray<number>, faults: { readonly from: number; readonly until: number }): Recovery => {
  const median = (from: number, seconds: number) => {
    const counts = Array.from({ length: seconds }, () => 0)
    for (const moment of completed) {
      const second = Math.floor((moment - from) / 1000)
      if (second >= 0 && second < seconds) counts[second]!++
    }
    return percentile(counts, 0.5)
  }
  const before = median(faults.from - watched.before * 1000, watched.before)
  const after = median(faults.until + watched.from * 1000, watched.until - watched.from)
  const ratio = after / before
  return {
    before,
    after,
    ratio,
    figure: `${before}/s before, ${after}/s ${watched.from} to ${watched.until} s after the last fault, ratio ${ratio.toFixed(2)}`
  }
}
