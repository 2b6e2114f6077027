import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Work = Job.make("Work", { payload: { n: Schema.Int }, success: Schema.Int })

const database = (filename: string) => SqliteClient.layer({ filename })

// What each of the three processes runs: an instance, until it is told to stop, or killed.
const worker = (filename: string) =>
  Jobsd.layer({
    jobs: [Work],
    workers: 2,
    // soon enough to watch: a dead instance is noticed after three seconds instead of thirty
    leaseDuration: "3 seconds",
    timeoutCheck: "500 millis"
  }).pipe(
    Layer.provide(Work.toLayer(({ n }) => Effect.delay(Effect.succeed(n * n), "300 millis"))),
    Layer.provide(database(filename)),
    Layer.launch
  )

// What the first process runs: it starts the others, gives them work, and kills one of them.
const cluster = Effect.gen(function* () {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "jobsd-cluster-"))),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )
  const filename = join(directory, "jobs.db")
  const start = () => spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), filename], { stdio: "inherit" })
  const workers = yield* Effect.acquireRelease(
    Effect.sync(() => [start(), start(), start()] as const),
    (workers) => Effect.forEach(workers, stop)
  )

  yield* Effect.gen(function* () {
    const ids = yield* Jobsd.createRuns(
      Work,
      Array.from({ length: 30 }, (_, n) => ({ n }))
    )
    const states = Effect.forEach(ids, Jobsd.getRunState)

    // The first process that has something to do dies in the middle of it.
    yield* Effect.repeat(Effect.delay(states, "50 millis"), { until: (states) => states.some(({ status }) => status === "succeeded") })
    yield* Effect.sync(() => workers[0].kill("SIGKILL"))
    yield* Console.log("one of three processes is killed")

    const done = yield* Effect.repeat(Effect.delay(states, "200 millis"), {
      until: (states) => states.every(({ completedAt }) => completedAt !== null)
    })
    const crashed = done.filter(({ crashCount }) => crashCount > 0)
    const succeeded = done.filter(({ status }) => status === "succeeded")
    yield* Console.log(`${succeeded.length} of ${ids.length} runs succeeded`)
    yield* Console.log(crashed.length === 0 ? "it had nothing in work" : `${crashed.length} of them were taken over by the others`)
  }).pipe(Effect.provide(Jobsd.layerClient().pipe(Layer.provide(tables(filename)))))
}).pipe(Effect.scoped)

/** a client's database, with the tables made */
const tables = (filename: string) => Layer.effectDiscard(Jobsd.migrate()).pipe(Layer.provideMerge(database(filename)))

/** SIGTERM, and the end of the process */
const stop = (child: ChildProcess) =>
  Effect.async<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.kill("SIGTERM")
  })

const filename = process.argv[2]
if (filename === undefined) {
  await Effect.runPromise(cluster)
} else {
  const running = Effect.runFork(worker(filename))
  process.once("SIGTERM", () => running.unsafeInterruptAsFork(running.id()))
}
