/**
 * An instance in a process of its own, told by one JSON argument what to be. It says on its standard output, a JSON object a line, when
 * it is ready, what its handlers do, what it logs, and its metrics when they change. SIGTERM ends it in good order.
 */
import { writeSync } from "node:fs"
import { SqlClient } from "@effect/sql"
import { Cause, Effect, Exit, Fiber, Layer, Logger, Metric, Scope } from "effect"
import { Jobsd, JobsdMetrics } from "jobsd"
import { clientLayer } from "../../support/client.js"
import { type Fault, make as makeFaulty } from "./faultyClient.js"
import { perform } from "./handler.js"
import { Act, Often } from "./work.js"

export interface WorkerOptions {
  readonly url: string
  readonly prefix: string
  readonly workers: number
  readonly leaseMillis: number
  readonly sweepMillis: number
  readonly pollMillis: number
  readonly shutdownMillis: number
  readonly connections: number
  /** faults that strike in this process's client */
  readonly faults: ReadonlyArray<Fault>
  /** a second SIGTERM asks the instance to hurry, instead of interrupting once more */
  readonly hurries: boolean
  /** makes the layer, and ends */
  readonly migrateOnly: boolean
}

export type Said =
  | { readonly say: "ready"; readonly instance: string }
  | { readonly say: "start" | "end" | "interrupted"; readonly run: string; readonly attempt: number; readonly at: number }
  | { readonly say: "log"; readonly level: string; readonly text: string }
  | { readonly say: "metric"; readonly stale: number }
  | { readonly say: "lag"; readonly millis: number; readonly at: number }
  | { readonly say: "failed"; readonly text: string }
  | { readonly say: "stopped" }

const options = JSON.parse(process.argv[2]!) as WorkerOptions

// written at once, whatever happens to the process next
const say = (said: Said) => {
  const line = Buffer.from(`${JSON.stringify(said)}\n`)
  for (let sent = 0; sent < line.length; ) {
    try {
      sent += writeSync(1, line, sent)
    } catch (error) {
      // the pipe is full: the reader is slow
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error
    }
  }
}

const ActLive = Act.toLayer((payload, run) => {
  const said = (word: "start" | "end" | "interrupted") =>
    Effect.sync(() => say({ say: word, run: run.id, attempt: run.attempt, at: Date.now() }))
  return said("start").pipe(
    Effect.zipRight(perform(payload, run)),
    Effect.onExit((exit) => said(Exit.isInterrupted(exit) ? "interrupted" : "end"))
  )
})

const LoggerLive = Logger.replace(
  Logger.defaultLogger,
  Logger.make(({ cause, logLevel, message }) => {
    const text = [message].flat().map(String).join(" ")
    say({ say: "log", level: logLevel.label, text: Cause.isEmpty(cause) ? text : `${text} ${Cause.pretty(cause)}` })
  })
)

const instance = Jobsd.layer({
  jobs: [Act],
  schedules: [Often],
  workers: options.workers,
  tablePrefix: options.prefix,
  leaseDuration: options.leaseMillis,
  timeoutCheck: options.sweepMillis,
  pollInterval: options.pollMillis,
  shutdownTimeout: options.shutdownMillis
}).pipe(Layer.provide(ActLive))

const FaultyClient = Layer.effect(
  SqlClient.SqlClient,
  Effect.map(SqlClient.SqlClient, (sql) => {
    if (options.faults.length === 0) return sql
    const faulty = makeFaulty(sql)
    for (const fault of options.faults) faulty.arm(fault)
    return faulty.sql
  })
).pipe(Layer.provide(clientLayer(options.url, options.connections)))

let stale = 0
const sayMetrics = () => {
  const { count } = Effect.runSync(Metric.value(JobsdMetrics.stale))
  if (count !== stale) say({ say: "metric", stale: count })
  stale = count
}

/** what the process notices of itself: metrics, and how late its timers are */
const watch = Effect.sync(() => {
  let expected = performance.now() + 50
  setInterval(() => {
    const millis = performance.now() - expected
    expected = performance.now() + 50
    if (millis > 20) say({ say: "lag", millis, at: Date.now() })
    sayMetrics()
  }, 50).unref()
})

let hurry: Effect.Effect<void> = Effect.void
const fiber = Effect.runFork(
  Effect.gen(function* () {
    // The client is not closed: that it waits for a server that does not answer would be its own business, and the process ends anyway.
    const client = yield* Layer.buildWithScope(FaultyClient, yield* Scope.make())
    yield* Effect.gen(function* () {
      const jobsd = yield* Jobsd.Jobsd
      const { id } = yield* jobsd.instance
      hurry = jobsd.hurry
      yield* watch
      say({ say: "ready", instance: id })
      if (!options.migrateOnly) yield* Effect.never
    }).pipe(Effect.provide(Layer.provide(instance, Layer.succeedContext(client))))
  }).pipe(
    Effect.provide(LoggerLive),
    Effect.tapErrorCause((cause) => Effect.sync(() => say({ say: "failed", text: Cause.pretty(cause) }))),
    Effect.onExit(() =>
      Effect.sync(() => {
        sayMetrics()
        say({ say: "stopped" })
      })
    )
  )
)
fiber.addObserver(() => {
  // a process whose last handler ignores its interruption must still end
  process.exit()
})
let signals = 0
process.on("SIGTERM", () => Effect.runFork(++signals > 1 && options.hurries ? hurry : Fiber.interrupt(fiber)))
