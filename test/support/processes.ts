/** Real processes: started, listened to, and killed. */
import { type ChildProcess, spawn } from "node:child_process"
import { createRequire } from "node:module"
import { fileURLToPath, pathToFileURL } from "node:url"
import { Effect, type Scope } from "effect"
import { eventually } from "./world.js"

export interface Worker {
  readonly lines: ReadonlyArray<string>
  /** ids of the runs that it says it started, or ended */
  readonly said: (word: "start" | "end" | "interrupted") => ReadonlyArray<string>
  readonly kill: (signal: "SIGKILL" | "SIGTERM" | "SIGSTOP" | "SIGCONT") => void
  readonly exited: Effect.Effect<void>
}

/** What makes Node run TypeScript, from any directory. */
export const tsx = ["--import", pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href]

/** An instance in a process of its own, killed at the latest when the scope closes. */
export const startWorker = (url: string, prefix: string, millis: number): Effect.Effect<Worker, never, Scope.Scope> =>
  Effect.gen(function* () {
    const lines: Array<string> = []
    let errors = ""
    const child: ChildProcess = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, [...tsx, fileURLToPath(new URL("./worker.ts", import.meta.url)), url, prefix, String(millis)], {
          stdio: ["ignore", "pipe", "pipe"]
        })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let rest = ""
    child.stdout?.on("data", (data: Buffer) => {
      const parts = (rest + data.toString()).split("\n")
      rest = parts.pop() ?? ""
      lines.push(...parts)
    })
    child.stderr?.on("data", (data: Buffer) => {
      errors += data.toString()
    })
    const hasExited = Effect.sync(() => child.exitCode !== null || child.signalCode !== null)
    yield* eventually(
      Effect.map(hasExited, (exited) => ({ lines, exited, errors })),
      () => lines.includes("ready"),
      "30 seconds"
    )
    return {
      lines,
      said: (word) => lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.split(" ")[1]!),
      kill: (signal) => void child.kill(signal),
      exited: Effect.asVoid(eventually(hasExited, (exited) => exited, "30 seconds"))
    }
  })
