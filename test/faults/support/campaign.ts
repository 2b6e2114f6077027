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
  /** the row of the catalogue */
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
