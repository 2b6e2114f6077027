import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

// What both sides must know: the job, not its handler.
const Resize = Job.make("Resize", { payload: { image: Schema.String }, success: Schema.String })

const directory = mkdtempSync(join(tmpdir(), "jobsd-producer-"))
const Database = SqliteClient.layer({ filename: join(directory, "jobs.db") })

// A web server, say: it creates runs and reads their state. No loops, no workers, no migration.
const Producer = Jobsd.layerClient().pipe(Layer.provide(Database))

const produce = Effect.gen(function* () {
  const one = yield* Jobsd.createRun(Resize, { image: "cat.png" })
  const more = yield* Jobsd.createRuns(Resize, [{ image: "dog.png" }, { image: "owl.png" }])
  yield* Console.log(`created ${1 + more.length} runs`)
  for (const id of [one, ...more]) {
    const state = yield* Jobsd.getRunState(id).pipe(
      Effect.delay("50 millis"),
      Effect.repeat({ until: ({ completedAt }) => completedAt !== null })
    )
    yield* Console.log(`${state.status}: ${state.result}`)
  }
})

// Another process, in real life: it works on them.
const Worker = Jobsd.layer({ jobs: [Resize] }).pipe(
  Layer.provide(Resize.toLayer(({ image }) => Effect.succeed(`small ${image}`))),
  Layer.provide(Database)
)

const program = Effect.gen(function* () {
  // the tables, which a producer expects to be there
  yield* Effect.provide(Jobsd.migrate(), Database)
  // each of the two opens the file for itself, as two processes do
  yield* Effect.raceFirst(Effect.provide(produce, Producer), Layer.launch(Worker))
})

await Effect.runPromise(
  Effect.ensuring(
    program,
    Effect.sync(() => rmSync(directory, { recursive: true }))
  )
)
