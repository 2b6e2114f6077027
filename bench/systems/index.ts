/** Every system of the bench, by database. The adapters are loaded only where they are used: each process holds one system. */
import type { Kind, Role, System } from "../system.ts"

export interface Entry {
  /** `database/name:variant`, unique */
  readonly key: string
  readonly on: Kind
  readonly name: string
  readonly role: Role
  /** whether it takes part when nothing is said */
  readonly quick: boolean
  /** the letter of the only measure that it is for */
  readonly only?: string
  /** runs in a drain, for those that would not come to the end of 20,000 */
  readonly drain?: number
}

type Make = (variant: string, on: Kind) => System

const adapters: { readonly [name: string]: () => Promise<{ readonly make: Make }> } = {
  jobsd: () => import("./jobsd.ts"),
  "raw/postgres": () => import("./raw-postgres.ts"),
  "raw/mariadb": () => import("./raw-mariadb.ts"),
  "raw/sqlite": () => import("./raw-sqlite.ts"),
  "graphile-worker": () => import("./graphile-worker.ts"),
  "pg-boss": () => import("./pg-boss.ts"),
  "effect-pq": () => import("./effect-pq.ts"),
  plainjob: () => import("./plainjob.ts"),
  statement: () => import("./statement.ts"),
  effect: () => import("./effect.ts")
}

const entry = (on: Kind, name: string, role: Role, quick: boolean, drain?: number): Entry => ({
  key: `${on}/${name}`,
  on,
  name,
  role,
  quick,
  ...(drain === undefined ? {} : { drain })
})

export const entries: ReadonlyArray<Entry> = [
  entry("postgres", "raw", "floor", true),
  entry("postgres", "raw:poll", "floor", false),
  { ...entry("postgres", "statement", "floor", false), only: "A" },
  { ...entry("postgres", "effect", "floor", false), only: "C" },
  entry("postgres", "jobsd", "ours", true),
  entry("postgres", "graphile-worker:batch", "peer", true),
  entry("postgres", "graphile-worker", "peer", false),
  entry("postgres", "pg-boss:batch", "peer", true),
  entry("postgres", "pg-boss", "peer", false, 500),
  entry("postgres", "effect-pq:poll", "peer", false, 4000),
  entry("sqlite", "raw", "floor", true),
  entry("sqlite", "raw:full", "floor", true),
  entry("sqlite", "jobsd", "ours", true),
  entry("sqlite", "jobsd:full", "ours", true),
  entry("sqlite", "plainjob:poll10", "peer", true),
  entry("sqlite", "effect-pq:poll", "peer", false, 4000),
  entry("mariadb", "raw", "floor", true),
  entry("mariadb", "jobsd", "ours", true),
  entry("mariadb", "effect-pq:poll", "peer", true, 500)
]

/** The adapter behind an entry's key. */
export const load = async (key: string): Promise<System> => {
  const [on, full] = key.split("/") as [Kind, string]
  const [name, variant = ""] = full.split(":") as [string, string?]
  const adapter = adapters[name] ?? adapters[`${name}/${on}`]
  if (adapter === undefined) throw new Error(`there is no system ${key}`)
  return (await adapter()).make(variant, on)
}
