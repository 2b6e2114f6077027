/** One bench: servers up, rounds, tables, a file with everything, servers down. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { cpus, totalmem } from "node:os"
import { parseArgs } from "node:util"
import { type Server, startServer } from "./databases.ts"
import { grid, type Measure, type Measured, Results, runCell, short, table } from "./harness.ts"
import { measures } from "./measures/index.ts"
import type { Kind } from "./system.ts"
import { type Entry, entries } from "./systems/index.ts"
import { describe, judge } from "./targets.ts"

const { values: options } = parseArgs({
  options: {
    full: { type: "boolean", default: false },
    only: { type: "string" },
    systems: { type: "string" },
    measures: { type: "string" },
    rounds: { type: "string" },
    help: { type: "boolean", default: false }
  }
})
if (options.help) {
  console.log("npm run bench -- [--full] [--only postgres,sqlite,mariadb] [--systems jobsd,raw] [--measures B,C] [--rounds N]")
  process.exit(0)
}
const list = (text: string | undefined) => text?.split(",").map((word) => word.trim())
const full = options.full
const rounds = options.rounds === undefined ? (full ? 3 : 2) : Number(options.rounds)

const kinds: ReadonlyArray<Kind> = ["postgres", "sqlite", "mariadb"]
const only = list(options.only) ?? kinds
const wanted = list(options.systems)
// "raw" means every variant of raw, "raw:poll" that one
const chosen = entries.filter(
  ({ name, on, quick }) =>
    only.includes(on) && (wanted === undefined ? full || quick : wanted.some((word) => name === word || name.split(":")[0] === word))
)
const letters = list(options.measures)
/** a measure that is asked for by its letter is measured, also in a short run */
const roundsOf = (measure: Measure) => {
  const most = (full ? measure.rounds.full : measure.rounds.short) ?? rounds
  return options.rounds === undefined ? Math.min(rounds, letters === undefined ? most : Math.max(1, most)) : rounds
}
const takesPart = (measure: Measure, entry: Entry) =>
  measure.suits(entry) &&
  (entry.only === undefined || entry.only === measure.letter) &&
  (full || letters !== undefined || wanted !== undefined || (measure.short?.(entry) ?? true))
const needed = new Set<string>()
const need = ({ letter, needs = [] }: Measure) => {
  needed.add(letter)
  for (const other of needs) need(measures.find((one) => one.letter === other)!)
}
for (const measure of measures) {
  if (letters === undefined ? roundsOf(measure) > 0 : letters.includes(measure.letter)) need(measure)
}
const plan = measures.filter(({ letter }) => needed.has(letter))

const servers = new Map<Kind, Server>()
let stopping: Promise<unknown> | undefined
const stop = () => {
  stopping ??= Promise.all([...servers.values()].map((server) => server.stop()))
  return stopping
}
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    console.error("stopping the servers")
    stop().finally(() => process.exit(130))
  })
}

const begun = Date.now()
const say = (text: string) => process.stderr.write(`${text}\n`)
const measured: Array<Measured> = []
try {
  await Promise.all(
    kinds
      .filter((kind) => chosen.some(({ on }) => on === kind))
      .map(async (kind) => {
        const server = await startServer(kind)
        if (typeof server === "string") say(`SKIPPED ${server}`)
        else servers.set(kind, server)
      })
  )
  const one = async (measure: Measure, entry: Entry, round: number) => {
    const start = Date.now()
    const cell = await runCell(measure, entry, round, servers, full, measured)
    measured.push(cell)
    const figures = measure.columns.flatMap(({ figure }) => {
      const value = cell.figures[figure]
      return typeof value === "number" ? [`${figure} ${short(value)}`] : []
    })
    say(`round ${round + 1} ${measure.letter} ${entry.key}: ${cell.error ?? figures.join(", ")} [${Date.now() - start} ms]`)
  }
  const inTurn = async (measure: Measure, turn: ReadonlyArray<Entry>, round: number) => {
    for (const entry of turn) await one(measure, entry, round)
  }
  for (let round = 0; round < rounds; round++) {
    for (const measure of plan) {
      if (round >= roundsOf(measure)) continue
      const present = chosen.filter((entry) => servers.has(entry.on) && takesPart(measure, entry))
      // nobody is always first
      const turn = present.map((_, i) => present[(i + round) % present.length]!)
      if (measure.together) {
        const alone = turn.filter(({ on }) => on === "mariadb")
        await Promise.all([
          ...turn.filter(({ on }) => on !== "mariadb").map((entry) => one(measure, entry, round)),
          inTurn(measure, alone, round)
        ])
      } else await inTurn(measure, turn, round)
    }
  }
} finally {
  await stop()
}

const results = new Results(measured)
const versions = () => {
  const require = createRequire(import.meta.url)
  const version = (name: string) => {
    try {
      return JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), "utf8")).version as string
    } catch {
      return "?"
    }
  }
  const names = Object.keys((require("./package.json") as { dependencies: object }).dependencies)
  return Object.fromEntries([["jobsd", version("jobsd")], ...names.map((name) => [name, version(name)])])
}

const took = Math.round((Date.now() - begun) / 1000)
const where = [...servers.values()].map(({ version }) => version)
console.log(`\n# jobsd bench: ${where.join(", ")}, Node ${process.version}, ${cpus().length} cores, ${rounds} rounds, ${took} s`)
for (const measure of plan) {
  for (const kind of kinds) {
    const text = table(
      results,
      measure,
      chosen.filter(({ on }) => on === kind)
    )
    if (text !== null) console.log(`\n## ${measure.letter}. ${measure.title}: ${kind}\n\n${text}`)
  }
}
const errors = measured.filter(({ error }) => error !== undefined)
if (errors.length > 0) console.log(`\n## errors\n\n${errors.map((one) => `- ${one.measure} ${one.system}: ${one.error}`).join("\n")}`)

const judged = judge(results)
const reached = judged.filter(({ pass }) => pass !== null)
const passed = reached.filter(({ pass }) => pass).length
console.log(`\n## targets: ${passed} of ${reached.length} measured here reached\n`)
if (reached.length > 0) console.log(grid([["target", "bound", "here", ""], ...(full ? judged : reached).map(describe)]))

const directory = new URL("./results/", import.meta.url)
mkdirSync(directory, { recursive: true })
const file = new URL(`${new Date(begun).toISOString().replace(/[:.]/g, "-")}.json`, directory)
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, memory: totalmem(), node: process.version, servers: where }
writeFileSync(
  file,
  JSON.stringify({ begun: new Date(begun).toISOString(), options, machine, versions: versions(), measured, targets: judged }, null, 2)
)
console.log(`\neverything: ${file.pathname}`)
process.exit(0)
