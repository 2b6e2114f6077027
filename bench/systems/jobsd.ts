/**
 * jobsd with its default settings, except for the number of workers, through its public API. `full`: SQLite syncs at every commit.
 * `telemetry`: spans, logs and metrics go to an OpenTelemetry SDK.
 */
import { Effect, Layer, ManagedRuntime, Schema } from "effect"
import { Job, Jobsd } from "jobsd"
import type { Kind, System } from "../system.ts"
import { client } from "./clients.ts"
import { libraryTables } from "./runs.ts"

const Noop = Job.make("noop", { payload: { id: Schema.Number, at: Schema.Number } })

/** The library's tables, for whoever works on them. */
export const migrate = (on: Kind, url: string): Promise<void> => Effect.runPromise(Effect.provide(Jobsd.migrate(), client(on, url)))

export const make = (variant: string, on: Kind): System => ({
  ...libraryTables(on),

  producer: async (url) => {
    const runtime = ManagedRuntime.make(Layer.provide(Jobsd.layerClient(), client(on, url, variant)))
    await runtime.runtime()
    return {
      each: (next) =>
        runtime.runPromise(
          Effect.gen(function* () {
            for (let payload = next(); payload !== undefined; payload = next()) yield* Jobsd.createRun(Noop, payload)
          })
        ),
      bulk: (payloads) => runtime.runPromise(Effect.asVoid(Jobsd.createRuns(Noop, payloads))),
      close: () => runtime.dispose()
    }
  },

  worker: async (url, { concurrency, run }) => {
    const observed = variant === "telemetry"
    const handler = Noop.toLayer((payload) => {
      const done = run(payload)
      const work = done === undefined ? Effect.void : Effect.promise(() => done)
      return observed ? Effect.zipRight(work, Effect.log("done")) : work
    })
    const instance = Jobsd.layer({ jobs: [Noop], workers: concurrency }).pipe(
      Layer.provide(handler),
      Layer.provide(client(on, url, variant))
    )
    const runtime = ManagedRuntime.make(observed ? Layer.provide(instance, (await import("./telemetry.ts")).telemetry) : instance)
    await runtime.runtime()
    return { stop: () => runtime.dispose() }
  }
})
