/**
 * Rounds, medians, tables. A cell is one measure of one system in one round, in a database of its own. Systems take turns within a
 * round and rounds follow each other, so that whatever else the machine does meets all of them alike; ratios are taken within a round.
 */
import { type Child, startChild } from "./children.ts"
import type { Database, Server } from "./databases.ts"
import type { Kind, System } from "./system.ts"
import { type Entry, load } from "./systems/index.ts"

/** What a cell has measured, by name; null where the system has no such thing. */
export type Figures = { readonly [figure: string]: number | null }

export interface Cell {
  readonly entry: Entry
  readonly system: System
  readonly server: Server
  readonly full: boolean
  readonly round: number
  /** figures of an earlier measure of the same system in this round */
  readonly earlier: (measure: string) => Figures | undefined
  /** an empty database of this system's, with its tables; it is dropped after the cell */
  readonly database: (name?: string) => Promise<Database>
  /** a process for this system, or a variant of it; it is ended after the cell at the latest */
  readonly child: (database: Database, variant?: string) => Promise<Child>
}

/** A column of a measure's table. */
export interface Column {
  readonly figure: string
  readonly title: string
  /** shown as a ratio to the floor and to the best peer */
  readonly ratio?: boolean
  readonly better?: "more" | "less"
}

export interface Measure {
  readonly letter: string
  readonly title: string
  /** how many rounds at most, in the short run and in the full one; those left out: as many as there are */
  readonly rounds: { readonly short?: number; readonly full?: number }
  /** measures whose figures it needs from the same round */
  readonly needs?: ReadonlyArray<string>
  /** for a measure of processes that hardly do anything: all systems at the same time, but one per database that only counts as a whole */
  readonly together?: boolean
  readonly columns: ReadonlyArray<Column>
  readonly suits: (entry: Entry) => boolean
  /** which of those take part in a short run that was not asked for particular measures or systems; left out: all */
  readonly short?: (entry: Entry) => boolean
  readonly run: (cell: Cell) => Promise<Figures>
}

/** One measured cell, or what went wrong in it. */
export interface Measured {
  readonly measure: string
  readonly system: string
  readonly round: number
  readonly figures: Figures
  readonly error?: string
}

export const runCell = async (
  measure: Measure,
  entry: Entry,
  round: number,
  servers: ReadonlyMap<Kind, Server>,
  full: boolean,
  measured: ReadonlyArray<Measured>
): Promise<Measured> => {
  const server = servers.get(entry.on)!
  const databases: Array<Database> = []
  const children: Array<Child> = []
  const system = await load(entry.key)
  const done = { measure: measure.letter, system: entry.key, round }
  try {
    const figures = await measure.run({
      entry,
      system,
      server,
      full,
      round,
      earlier: (letter) =>
        measured.find((one) => one.measure === letter && one.system === entry.key && one.round === round && one.error === undefined)
          ?.figures,
      database: async (name = "cell") => {
        const database = await server.create(`bench_${entry.name.replace(/\W/g, "_")}_${name}`)
        databases.push(database)
        await system.prepare(database.url)
        return database
      },
      child: async (database, variant) => {
        const child = await startChild(variant === undefined ? entry.key : `${entry.key}:${variant}`, database.url)
        children.push(child)
        return child
      }
    })
    return { ...done, figures }
  } catch (error) {
    return { ...done, figures: {}, error: error instanceof Error ? error.message : String(error) }
  } finally {
    await Promise.all(children.map((child) => child.end()))
    for (const database of databases) await database.drop().catch(() => {})
  }
}

export const median = (values: ReadonlyArray<number>): number | null => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return null
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export const percentile = (values: Float64Array, share: number): number => {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort()
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

/** Questions asked of everything measured. */
export class Results {
  readonly measured: ReadonlyArray<Measured>
  constructor(measured: ReadonlyArray<Measured>) {
    this.measured = measured
  }

  private byRound(measure: string, system: string, figure: string): ReadonlyMap<number, number> {
    return new Map(
      this.measured
        .filter((one) => one.measure === measure && one.system === system && typeof one.figures[figure] === "number")
        .map((one) => [one.round, one.figures[figure]!])
    )
  }

  values(measure: string, system: string, figure: string): ReadonlyArray<number> {
    return [...this.byRound(measure, system, figure).values()]
  }

  median(measure: string, system: string, figure: string): number | null {
    return median(this.values(measure, system, figure))
  }

  /** the median over the rounds of one system's figure divided by another's in the same round */
  ratio(measure: string, figure: string, system: string, other: string, otherMeasure = measure, otherFigure = figure): number | null {
    const others = this.byRound(otherMeasure, other, otherFigure)
    return median(
      [...this.byRound(measure, system, figure)].flatMap(([round, value]) => {
        const by = others.get(round)
        return by === undefined || by === 0 ? [] : [value / by]
      })
    )
  }

  /** the peer with the best median */
  best(measure: string, figure: string, peers: ReadonlyArray<string>, better: "more" | "less" = "more"): string | null {
    const found = peers
      .map((peer) => [peer, this.median(measure, peer, figure)] as const)
      .filter((pair): pair is readonly [string, number] => pair[1] !== null)
      .sort((a, b) => (better === "more" ? b[1] - a[1] : a[1] - b[1]))
    return found[0]?.[0] ?? null
  }
}

export const short = (value: number | null): string => {
  if (value === null || Number.isNaN(value)) return ""
  const size = Math.abs(value)
  if (size >= 100_000) return `${(value / 1000).toFixed(0)}k`
  if (size >= 10_000) return `${(value / 1000).toFixed(1)}k`
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0)
  return value.toPrecision(size >= 1 ? 3 : 2)
}

const spread = (values: ReadonlyArray<number>): string => {
  const middle = short(median(values))
  if (values.length < 2) return middle
  const [low, high] = [short(Math.min(...values)), short(Math.max(...values))]
  return low === high ? middle : `${middle} (${low}–${high})`
}

export const grid = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  const line = (row: ReadonlyArray<string>) =>
    `| ${row.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join(" | ")} |`
  const rule = `|${widths.map((width, i) => (i === 0 ? "-".repeat(width + 2) : `${"-".repeat(width + 1)}:`)).join("|")}|`
  return [line(rows[0]!), rule, ...rows.slice(1).map(line)].join("\n")
}

/** The table of a measure on one database, or null if nothing was measured. */
export const table = (results: Results, measure: Measure, entries: ReadonlyArray<Entry>): string | null => {
  const present = entries.filter(({ key }) => results.measured.some((one) => one.measure === measure.letter && one.system === key))
  if (present.length === 0) return null
  const { columns, letter } = measure
  const peers = present.filter(({ role }) => role === "peer").map(({ key }) => key)
  const floor = present.find(({ role, name }) => role === "floor" && !name.includes(":"))?.key
  const has = ({ figure }: Column) => present.some(({ key }) => results.values(letter, key, figure).length > 0)
  const shown = columns.filter(has)
  const versus = (figure: string, system: string, other: string | null | undefined) =>
    other === null || other === undefined || other === system ? "" : short(results.ratio(letter, figure, system, other))
  const ratios = ({ better, figure, ratio }: Column, key: string) =>
    ratio
      ? [
          ...(floor === undefined ? [] : [versus(figure, key, floor)]),
          ...(peers.length === 0 ? [] : [versus(figure, key, results.best(letter, figure, peers, better))])
        ]
      : []
  const rows = [
    [
      "system",
      ...shown.flatMap(({ ratio, title }) => [
        title,
        ...(ratio && floor !== undefined ? ["/ floor"] : []),
        ...(ratio && peers.length > 0 ? ["/ best peer"] : [])
      ])
    ],
    ...present.map(({ key, name, role }) => [
      role === "ours" ? `**${name}**` : name,
      ...shown.flatMap((column) => [spread(results.values(letter, key, column.figure)), ...ratios(column, key)])
    ])
  ]
  return grid(rows)
}
