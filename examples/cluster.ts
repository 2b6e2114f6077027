import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Fiber, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Work = Job.make("Work", { payload: { n: Schema.Int }, success: Schema.Int })

const database = (filename: string) => SqliteClient.layer({ filename })

// What each of the three processes runs: an instance, until it is told to stop, or killed.
const WorkLive = Work.toLayer(({ n }) =>
  Effect.gen(function* () {
    yield* Effect.sync(() => process.send?.(n)) // tells the first process that a run is at work here
    yield* Effect.sleep("500 millis")
    return n * n
  })
)

const worker = (filename: string) =>
  Jobsd.layer({
    jobs: [Work],
    workers: 2,
    // soon enough to watch: a dead instance is noticed after three seconds instead of thirty
    leaseDuration: "3 seconds",
    timeoutCheck: "500 millis"
  }).pipe(Layer.provide(WorkLive), Layer.provide(database(filename)), Layer.launch, Effect.tapErrorCause(Effect.logError))

// What the first process runs: it starts the others, gives them work, and kills one of them.
const cluster = Effect.gen(function* () {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "jobsd-cluster-"))),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )
  const filename = join(directory, "jobs.db")

  // a client, which works on nothing itself, and the tables it expects
  yield* Effect.provide(Jobsd.migrate(), database(filename))
  const Client = Jobsd.layerClient().pipe(Layer.provide(database(filename)))

  const workers = yield* Effect.replicateEffect(Effect.acquireRelease(start(filename), stop), 3)

  yield* Effect.gen(function* () {
    const ids = yield* Jobsd.createRuns(
      Work,
      Array.from({ length: 30 }, (_, n) => ({ n }))
    )

    // The first one that is at work dies in the middle of it. It has no time to say good bye.
    const victim = yield* Effect.raceAll(workers.map(atWork)).pipe(Effect.timeout("1 minute"))
    yield* Effect.sync(() => victim.kill("SIGKILL"))
    yield* Console.log("one of three processes is killed")

    const ended = yield* Effect.forEach(ids, Jobsd.getRunState).pipe(
      Effect.delay("200 millis"),
      Effect.repeat({ until: (states) => states.every(({ completedAt }) => completedAt !== null) })
    )
    const crashed = ended.filter(({ crashCount }) => crashCount > 0)
    const succeeded = ended.filter(({ status }) => status === "succeeded")
    yield* Console.log(`runs that the others took over: ${crashed.length}`)
    yield* Console.log(`${succeeded.length} of ${ids.length} runs succeeded`)
  }).pipe(Effect.provide(Client))
}).pipe(Effect.scoped)

/** this same program, with an argument */
const start = (filename: string) =>
  Effect.sync(() =>
    spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), filename], {
      stdio: ["ignore", "inherit", "inherit", "ipc"]
    })
  )

const atWork = (child: ChildProcess) =>
  Effect.async<ChildProcess>((resume) => {
    child.once("message", () => resume(Effect.succeed(child)))
  })

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
  process.once("SIGTERM", () => Effect.runFork(Fiber.interrupt(running)))
}
