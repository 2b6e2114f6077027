/** What jobsd is to reach, and whether it did in this run. */

import { type Results, short } from "./harness.ts"
import { growths } from "./measures/growth.ts"
import type { Kind } from "./system.ts"
import { entries } from "./systems/index.ts"

interface Target {
  readonly what: string
  readonly bound: "at least" | "at most"
  readonly limit: number
  /** null: not measured in this run */
  readonly value: (results: Results) => number | null
}

const ours = (on: Kind) => `${on}/jobsd`
const floor = (on: Kind) => `${on}/raw`
const names: { readonly [on in Kind]: string } = { postgres: "PostgreSQL", sqlite: "SQLite", mariadb: "MariaDB" }
const databases: ReadonlyArray<Kind> = ["postgres", "sqlite", "mariadb"]

const versus =
  (on: Kind, measure: string, figure: string, other: string) =>
  (results: Results): number | null =>
    results.ratio(measure, figure, ours(on), `${on}/${other}`)
const own =
  (on: Kind, measure: string, figure: string) =>
  (results: Results): number | null =>
    results.median(measure, ours(on), figure)

const atLeast = (limit: number, what: string, value: Target["value"]): Target => ({ what, bound: "at least", limit, value })
const atMost = (limit: number, what: string, value: Target["value"]): Target => ({ what, bound: "at most", limit, value })

const creations = { sequential: "sequential", atOnce: "10 at once", bulk: "bulk 10k" }
const createTargets = (on: Kind, limits: { readonly [figure in keyof typeof creations]?: number }, of: string) =>
  Object.entries(limits).map(([figure, limit]) =>
    atLeast(limit, `${names[on]} create ${creations[figure as keyof typeof creations]} / ${of}`, versus(on, "A", figure, "raw"))
  )

/** the same bounds for processes that have been at work for a while */
const warm = (on: Kind, limits: { readonly [other: string]: number }) =>
  Object.entries(limits).map(([other, limit]) => atLeast(limit, `${names[on]} drain at 50, warm / ${other}`, versus(on, "W", "rate", other)))

/** above every peer: the least of the ratios */
const abovePeers = (figure: keyof typeof creations) =>
  atLeast(1, `PostgreSQL create ${creations[figure]} / best peer`, (results) => {
    const peers = entries.filter(({ on, role }) => on === "postgres" && role === "peer").map(({ key }) => key)
    const ratios = peers.flatMap((peer) => results.ratio("A", figure, ours("postgres"), peer) ?? [])
    return ratios.length === 0 ? null : Math.min(...ratios)
  })

/** over every measure and round of ours */
const mistakes = (figure: "lost" | "twice") =>
  atMost(0, `runs ${figure === "lost" ? "lost" : "executed twice"}, all measures`, ({ measured }) => {
    const cells = measured.filter(({ figures, system }) => system.split("/")[1]!.startsWith("jobsd") && typeof figures[figure] === "number")
    return cells.length === 0 ? null : cells.reduce((sum, { figures }) => sum + figures[figure]!, 0)
  })

/** our drain keeps the same share of its rate as the floor's */
const growthTarget = (on: Kind, filling: string, title: string) =>
  atLeast(0.9, `${names[on]} drain beside ${title} / the floor's`, (results) => results.ratio("G", filling, ours(on), floor(on)))

export const targets: ReadonlyArray<Target> = [
  atLeast(1, "PostgreSQL drain at 50 / graphile-worker batched", versus("postgres", "B", "rate", "graphile-worker:batch")),
  atLeast(1.5, "PostgreSQL drain at 50 / pg-boss batched", versus("postgres", "B", "rate", "pg-boss:batch")),
  atLeast(0.8, "PostgreSQL drain at 50 / floor", versus("postgres", "B", "rate", "raw")),
  atMost(0.03, "PostgreSQL transactions per run", own("postgres", "B", "transactions")),
  atMost(25, "PostgreSQL worker CPU µs per run", own("postgres", "B", "cpu")),
  ...warm("postgres", { "graphile-worker:batch": 1, "pg-boss:batch": 1.5, raw: 0.8 }),
  atMost(25, "PostgreSQL worker CPU µs per run, warm", own("postgres", "W", "cpu")),
  atLeast(0.6, "MariaDB drain at 50 / floor", versus("mariadb", "B", "rate", "raw")),
  atLeast(0.6, "MariaDB drain by two processes / floor", versus("mariadb", "E", "rate", "raw")),
  atLeast(4, "SQLite drain at 50 / plainjob", versus("sqlite", "B", "rate", "plainjob:poll10")),
  ...warm("sqlite", { "plainjob:poll10": 4 }),
  atMost(50, "SQLite longest gap of the event loop, ms", own("sqlite", "B", "gap")),
  ...createTargets("postgres", { sequential: 0.75, atOnce: 1.5, bulk: 0.4 }, "bare pg with NOTIFY"),
  abovePeers("sequential"),
  abovePeers("atOnce"),
  abovePeers("bulk"),
  ...createTargets("sqlite", { sequential: 0.4, bulk: 0.4 }, "bare better-sqlite3"),
  atMost(1.1, "PostgreSQL pick-up p50 / graphile-worker batched", versus("postgres", "C", "p50", "graphile-worker:batch")),
  atMost(1.5, "PostgreSQL pick-up p99 / graphile-worker batched", versus("postgres", "C", "p99", "graphile-worker:batch")),
  atMost(10, "SQLite pick-up p50, ms", own("sqlite", "C", "p50")),
  atMost(120, "MariaDB pick-up p50, ms", own("mariadb", "C", "p50")),
  atMost(0.5, "PostgreSQL latency under load p50 / graphile-worker batched", versus("postgres", "D", "p50", "graphile-worker:batch")),
  atMost(0.7, "PostgreSQL latency under load p99 / graphile-worker batched", versus("postgres", "D", "p99", "graphile-worker:batch")),
  // what came in the last two bulks may be on its way
  atMost(100, "PostgreSQL backlog at the end of the load", own("postgres", "D", "backlog")),
  atLeast(0.95, "PostgreSQL two processes / one", own("postgres", "E", "timesOne")),
  ...databases.map((on) => atLeast(0.4, `${names[on]} smaller share of two processes`, own(on, "E", "share"))),
  mistakes("lost"),
  mistakes("twice"),
  atMost(33, "PostgreSQL statements per idle minute", own("postgres", "F", "statements")),
  atMost(400, "MariaDB statements per idle minute", own("mariadb", "F", "statements")),
  ...databases.map((on) => atMost(1, `${names[on]} CPU s per idle minute`, own(on, "F", "cpu"))),
  ...databases.flatMap((on) => Object.entries(growths).map(([filling, title]) => growthTarget(on, filling, title))),
  atMost(1.4, "PostgreSQL peak memory of the drain / graphile-worker batched", versus("postgres", "B", "peakRss", "graphile-worker:batch")),
  ...databases.map((on) => atMost(1.15, `${names[on]} idle memory beside a million for later / beside none`, own(on, "H", "share"))),
  ...databases.map((on) => atMost(1.15, `${names[on]} memory while it works on a million, late / early`, own(on, "H", "growth"))),
  ...databases.map((on) => atLeast(5, `${names[on]} ten one-worker instances, shared by`, own(on, "S", "sharedBy"))),
  atLeast(0.3, "drain with telemetry / without", own("postgres", "T", "share")),
  atMost(60, "CPU µs more per run with telemetry", own("postgres", "T", "cpu")),
  atLeast(0.3, "drain with telemetry / without, warm", own("postgres", "T", "shareWarm")),
  atMost(60, "CPU µs more per run with telemetry, warm", own("postgres", "T", "cpuWarm"))
]

/** Lines for the report, and how many of those measured were reached. */
export const judge = (results: Results) =>
  targets.map(({ bound, limit, value, what }) => {
    const reached = value(results)
    const pass = reached === null ? null : bound === "at least" ? reached >= limit : reached <= limit
    return { what, bound, limit, reached, pass }
  })

export const describe = ({ bound, limit, pass, reached, what }: ReturnType<typeof judge>[number]): ReadonlyArray<string> => [
  what,
  `${bound} ${limit}`,
  reached === null ? "" : short(reached),
  pass === null ? "not measured" : pass ? "pass" : "FAIL"
]
