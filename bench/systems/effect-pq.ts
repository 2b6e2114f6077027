/** Effect's own PersistedQueue on SQL with `concurrency` takers, polling every second as it comes; `poll`: every twenty milliseconds. */
import { PersistedQueue } from "@effect/experimental"
import { type SqlClient, SqlPersistedQueue } from "@effect/sql"
import { Effect, Fiber, Layer, ManagedRuntime, Schema } from "effect"
import type { Kind, System } from "../system.ts"
import { client } from "./clients.ts"

const queue = PersistedQueue.make({ name: "noop", schema: Schema.Struct({ id: Schema.Number, at: Schema.Number }) })

export const make = (variant: string, on: Kind): System => {
  const open = async (url: string) => {
    const store = SqlPersistedQueue.layerStore(variant === "poll" ? { pollInterval: "20 millis" } : {})
    const layer: Layer.Layer<PersistedQueue.PersistedQueueFactory | SqlClient.SqlClient> = PersistedQueue.layer.pipe(
      Layer.provide(Layer.orDie(store)),
      Layer.provideMerge(client(on, url))
    )
    const runtime = ManagedRuntime.make(layer)
    return { runtime, queue: await runtime.runPromise(queue) }
  }
  return {
    prepare: async (url) => (await open(url)).runtime.dispose(),

    producer: async (url) => {
      const { queue, runtime } = await open(url)
      return {
        each: (next) =>
          runtime.runPromise(
            Effect.gen(function* () {
              for (let payload = next(); payload !== undefined; payload = next()) yield* queue.offer(payload)
            })
          ),
        bulk: null,
        close: () => runtime.dispose()
      }
    },

    worker: async (url, { concurrency, run }) => {
      const { queue, runtime } = await open(url)
      const take = queue.take((payload) => {
        const done = run(payload)
        return done === undefined ? Effect.void : Effect.promise(() => done)
      })
      const takers = Array.from({ length: concurrency }, () => runtime.runFork(Effect.forever(Effect.orDie(take))))
      return {
        stop: async () => {
          await Effect.runPromise(Fiber.interruptAll(takers))
          await runtime.dispose()
        }
      }
    },

    pending: "SELECT count(*) AS pending FROM effect_queue WHERE completed = FALSE",
    fill: {}
  }
}
