/** What the harness asks of every system: ours, its peers, and the bare drivers that are the floor. */

export type Kind = "postgres" | "sqlite" | "mariadb"
export type Role = "ours" | "floor" | "peer"

/** What travels with a run: which one it is, and when it was created, by the machine's monotonic clock in milliseconds. */
export interface Payload {
  readonly id: number
  readonly at: number
}

export interface System {
  /** makes its tables in an empty database */
  readonly prepare: (url: string) => Promise<void>
  readonly producer: (url: string) => Promise<Producer>
  readonly worker: (url: string, options: WorkerOptions) => Promise<Worker>
  /** SQL for the number of runs that are due and not yet recorded as finished, in a column `pending` */
  readonly pending: string
  /** SQL for the number of runs that it has set aside because nobody knows their job, in a column `parked`, if it has such a thing */
  readonly parked?: string
  /** SQL that tells the planner what is in its tables, as the server itself does with tables that have been there for a while */
  readonly analyze?: string
  /** SQL that fills the table before a drain, if this system can have such rows */
  readonly fill: { readonly [what in Filling]?: ReadonlyArray<string> }
}

export interface Producer {
  /** creates runs one after the other, until there is no next one */
  readonly each: (next: () => Payload | undefined) => Promise<void>
  /** creates all at once, in the cheapest way the system offers; null if it offers none */
  readonly bulk: ((payloads: ReadonlyArray<Payload>) => Promise<void>) | null
  readonly close: () => Promise<void>
}

export interface WorkerOptions {
  readonly concurrency: number
  /** the handler; it answers with a promise only where the measure wants work that takes time */
  readonly run: (payload: Payload) => Promise<void> | undefined
}

export interface Worker {
  readonly stop: () => Promise<void>
}

/** What may stand in a table beside the runs that are drained. */
export type Filling = "finished" | "future" | "unknown" | "elsewhere" | "expired" | "later" | "waiting"

/** The machine's monotonic clock in milliseconds: the same in every process. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6
