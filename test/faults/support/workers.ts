/** The processes of a fault test, from the outside: started, listened to, frozen and killed. */
import { type ChildProcess, spawn } from "node:child_process"
import { Duration, Effect, type Scope } from "effect"
import { defaults } from "../../../src/internal/settings.js"
import { eventually } from "../../support/world.js"
import { bundled } from "./bundle.js"
import type { Execution, Freeze } from "./checker.js"
import type { UserOptions, UserSaid } from "./user.js"
import type { Said, WorkerOptions } from "./worker.js"

export interface Worker {
  readonly pid: number
  readonly said: ReadonlyArray<Said>
  /** ids of the runs whose handler started, or ended, here */
  readonly runs: (word: "start" | "end" | "interrupted") => ReadonlyArray<string>
  /** runs whose handler has started here and has not ended */
  readonly atWork: () => ReadonlyArray<string>
  readonly logged: (text: string) => number
  /** settlements that were too late, by its metric */
  readonly stale: () => number
  readonly kill: (signal: "SIGKILL" | "SIGTERM") => void
  readonly freeze: () => void
  readonly thaw: () => void
  readonly hasExited: () => boolean
  /** waits for the end of the process; its exit code, or the signal that killed it */
  readonly exited: Effect.Effect<number | string>
  /** how late its timers were, in milliseconds */
  readonly lags: () => ReadonlyArray<number>
  /** what the checker is told about this process */
  readonly executions: () => ReadonlyArray<Execution>
  /** when it was stopped, and when its event loop stood still for half a second */
  readonly freezes: () => ReadonlyArray<Freeze>
}

const quick = {
  workers: 4,
  leaseMillis: 3000,
  sweepMillis: 500,
  pollMillis: 200,
  shutdownMillis: 5000,
  connections: 3,
  faults: [],
  hurries: false,
  migrateOnly: false
}

/** What an instance has of whom nothing is said, where `quick` would say something else; the pool is the driver's. */
export const atDefaults = {
  workers: defaults.workers,
  leaseMillis: Duration.toMillis(defaults.leaseDuration),
  sweepMillis: Duration.toMillis(defaults.timeoutCheck),
  pollMillis: Duration.toMillis(defaults.pollInterval),
  shutdownMillis: Duration.toMillis(defaults.shutdownTimeout),
  connections: 10
}

export type Options = Partial<WorkerOptions> & Pick<WorkerOptions, "url" | "prefix">

/** Starts a process, without waiting for it to be ready. It is killed at the latest when the scope closes. */
export const spawnWorker = (options: Options, nodeOptions: ReadonlyArray<string> = []): Effect.Effect<Worker, never, Scope.Scope> =>
  Effect.gen(function* () {
    const script = yield* Effect.promise(() => bundled("worker"))
    const said: Array<Said> = []
    const freezes: Array<{ readonly from: number; until: number }> = []
    let endedAt = Number.POSITIVE_INFINITY
    let closed = false
    let errors = ""
    const child: ChildProcess = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, [...nodeOptions, script, JSON.stringify({ ...quick, ...options })], { stdio: ["ignore", "pipe", "pipe"] })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let rest = ""
    child.stdout?.on("data", (data: Buffer) => {
      const lines = (rest + data.toString()).split("\n")
      rest = lines.pop() ?? ""
      // a handler that prints, or a process that dies, may leave something else
      for (const line of lines) if (line.startsWith("{")) said.push(JSON.parse(line))
    })
    child.stderr?.on("data", (data: Buffer) => {
      errors += data.toString()
    })
    child.once("exit", () => {
      endedAt = Date.now()
    })
    // what it said last has arrived, too
    child.once("close", () => {
      closed = true
    })

    const executions = (): ReadonlyArray<Execution> => {
      const found: Array<{ readonly run: string; readonly attempt: number; readonly pid: number; readonly from: number; until: number }> =
        []
      for (const line of said) {
        if (line.say === "start") found.push({ run: line.run, attempt: line.attempt, pid: child.pid!, from: line.at, until: endedAt })
        if (line.say === "end" || line.say === "interrupted") {
          const started = found.find(({ attempt, run, until }) => run === line.run && attempt === line.attempt && until === endedAt)
          if (started !== undefined) started.until = line.at
        }
      }
      return found
    }
    const runs: Worker["runs"] = (word) => said.flatMap((line) => (line.say === word ? [line.run] : []))

    return {
      pid: child.pid!,
      said,
      runs,
      atWork: () => executions().flatMap(({ run, until }) => (until === endedAt ? [run] : [])),
      logged: (text) => said.filter((line) => line.say === "log" && line.text.includes(text)).length,
      stale: () => Math.max(0, ...said.map((line) => (line.say === "metric" ? line.stale : 0))),
      kill: (signal) => void child.kill(signal),
      freeze: () => {
        child.kill("SIGSTOP")
        freezes.push({ from: Date.now(), until: Number.POSITIVE_INFINITY })
      },
      thaw: () => {
        freezes.at(-1)!.until = Date.now()
        child.kill("SIGCONT")
      },
      hasExited: () => closed,
      exited: Effect.as(
        eventually(
          Effect.sync(() => ({ closed, errors })),
          () => closed,
          "60 seconds"
        ),
        0
      ).pipe(Effect.map(() => child.exitCode ?? child.signalCode ?? "unknown")),
      lags: () => said.flatMap((line) => (line.say === "lag" ? [line.millis] : [])),
      executions,
      freezes: () => [
        ...freezes.map((freeze) => ({ ...freeze, pid: child.pid! })),
        ...said.flatMap((line) =>
          line.say === "lag" && line.millis > 500 ? [{ pid: child.pid!, from: line.at - line.millis - 50, until: line.at }] : []
        )
      ]
    }
  })

export const ready = (worker: Worker): Effect.Effect<void> =>
  Effect.asVoid(
    eventually(
      Effect.sync(() => ({ said: worker.said.slice(-5), exited: worker.hasExited() })),
      ({ exited }) => exited || worker.said.some(({ say }) => say === "ready"),
      "60 seconds"
    )
  )

/** Starts a process and waits until it works. */
export const startWorker = (options: Options, nodeOptions: ReadonlyArray<string> = []): Effect.Effect<Worker, never, Scope.Scope> =>
  Effect.tap(spawnWorker(options, nodeOptions), ready)

/** Runs a process that only creates and cancels, until it dies; what it had said until then. It is killed when the scope closes. */
export const userUntilDeath = (
  options: UserOptions
): Effect.Effect<{ readonly said: ReadonlyArray<UserSaid>; readonly diedOf: string | null }, never, Scope.Scope> =>
  Effect.gen(function* () {
    const script = yield* Effect.promise(() => bundled("user"))
    let out = ""
    let closed = false
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, [script, JSON.stringify(options)], { stdio: ["ignore", "pipe", "inherit"] })),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    child.stdout.on("data", (data: Buffer) => {
      out += data.toString()
    })
    child.once("close", () => {
      closed = true
    })
    yield* eventually(
      Effect.sync(() => ({ closed, out: out.slice(-500) })),
      ({ closed }) => closed,
      "20 seconds"
    )
    return {
      said: out.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line) as UserSaid] : [])),
      diedOf: child.signalCode
    }
  })
