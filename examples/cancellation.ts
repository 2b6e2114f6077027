import { SqliteClient } from "@effect/sql-sqlite-node"
import { Console, Deferred, Effect, Layer, Schema } from "effect"
import { Job, Jobsd } from "jobsd"

const Download = Job.make("Download", { payload: { url: Schema.String } })

const program = Effect.gen(function* () {
  const downloading = yield* Deferred.make<void>()

  // To cancel is to interrupt the fiber: finalizers run, in their order, as everywhere in Effect.
  const DownloadLive = Download.toLayer(({ url }) =>
    Effect.gen(function* () {
      yield* Effect.acquireRelease(Console.log("temporary file made"), () => Console.log("temporary file removed"))
      yield* Deferred.succeed(downloading, undefined)
      yield* Effect.never
    }).pipe(Effect.onInterrupt(() => Console.log(`${url} given up`)))
  )

  const JobsdLive = Jobsd.layer({ jobs: [Download] }).pipe(
    Layer.provide(DownloadLive),
    Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
  )

  yield* Effect.gen(function* () {
    // A run that waits is cancelled at once, and never starts.
    const waiting = yield* Jobsd.createRun(Download, { url: "later.zip" }, { delay: "1 hour" })
    yield* Console.log(`later.zip: ${yield* Jobsd.cancel(waiting)}`)

    // A running one is asked to stop, wherever in the cluster it runs.
    const running = yield* Jobsd.createRun(Download, { url: "now.zip" })
    yield* Deferred.await(downloading)
    yield* Console.log(`now.zip: ${yield* Jobsd.cancel(running)}`)
    const ended = yield* Jobsd.getRunState(running).pipe(
      Effect.delay("20 millis"),
      Effect.repeat({ until: ({ completedAt }) => completedAt !== null })
    )
    yield* Console.log(`now.zip: ${ended.status}`)

    // What is over stays as it is.
    yield* Console.log(`now.zip again: ${yield* Jobsd.cancel(running)}`)
  }).pipe(Effect.provide(JobsdLive))
})

await Effect.runPromise(program)
