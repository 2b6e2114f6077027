/** Starts the processes of `child.ts` and calls them. */
import { type ChildProcess, fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import type { Calls } from "./child.ts"

export interface Child {
  readonly call: <Name extends keyof Calls>(name: Name, ...input: Parameters<Calls[Name]>) => Promise<Awaited<ReturnType<Calls[Name]>>>
  /** how many runs it says it has executed */
  readonly executed: () => number
  /** asks it to stop in good order, and kills it if it does not */
  readonly end: () => Promise<void>
}

interface Waiting {
  readonly resolve: (value: any) => void
  readonly reject: (error: Error) => void
}

const alive = new Set<ChildProcess>()
process.on("exit", () => {
  for (const child of alive) child.kill("SIGKILL")
})

export const startChild = async (key: string, url: string): Promise<Child> => {
  const child = fork(fileURLToPath(new URL("./child.ts", import.meta.url)), [key, url], {
    serialization: "advanced",
    // it was built for a run of its own: nothing of the harness's flags or output
    execArgv: ["--disable-warning=ExperimentalWarning"],
    stdio: ["ignore", "inherit", "inherit", "ipc"]
  })
  alive.add(child)
  const waiting = new Map<number, Waiting>()
  let executed = 0
  let nextId = 0
  let ready = () => {}
  let failed = (_: Error) => {}
  const started = new Promise<void>((resolve, reject) => {
    ready = resolve
    failed = reject
  })
  child.on("message", (message: any) => {
    if (message.ready) ready()
    else if (message.executed !== undefined) executed = message.executed
    else {
      const asked = waiting.get(message.id)
      waiting.delete(message.id)
      if (message.error === undefined) asked?.resolve(message.output)
      else asked?.reject(new Error(`${key}: ${message.error}`))
    }
  })
  const exited = new Promise<void>((resolve) =>
    child.once("exit", (code, signal) => {
      alive.delete(child)
      const error = new Error(`${key}: its process ended (${signal ?? code})`)
      failed(error)
      for (const { reject } of waiting.values()) reject(error)
      waiting.clear()
      resolve()
    })
  )
  await started
  const call: Child["call"] = (name, ...input) =>
    new Promise((resolve, reject) => {
      const id = nextId++
      waiting.set(id, { resolve, reject })
      child.send({ id, call: name, input: input[0] }, (error) => {
        if (error !== null) reject(error)
      })
    })
  return {
    call,
    executed: () => executed,
    end: async () => {
      const patience = setTimeout(() => child.kill("SIGKILL"), 10_000)
      if (child.connected) {
        await call("stop").catch(() => {})
        if (child.connected) child.disconnect()
      }
      await exited
      clearTimeout(patience)
    }
  }
}
