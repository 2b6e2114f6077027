/**
 * What Effect's client alone takes: the statement of `createRun`, with the values it would have, on a connection that an Effect asks for,
 * and nothing around it. An upper bound for whoever creates runs through that client; it works on none.
 */
import { SqlClient } from "@effect/sql"
import { Effect, ManagedRuntime } from "effect"
import type { Kind, Payload, System } from "../system.ts"
import { client } from "./clients.ts"
import { libraryTables } from "./runs.ts"
import { uuidv7 } from "./uuid.ts"

const parameters = Array.from({ length: 21 }, (_, i) => `$${i + 1}`).join(", ")
const text = `CALL jobsd_create_run(${parameters})`

export const make = (_: string, on: Kind): System => ({
  ...libraryTables(on),

  producer: async (url) => {
    const runtime = ManagedRuntime.make(client(on, url))
    const { reserve } = await runtime.runPromise(SqlClient.SqlClient)
    const me = uuidv7()
    const values = (payload: Payload) => {
      const json = JSON.stringify(payload)
      const limits = [3, 3, 2, 1_800_000, null, null]
      return [uuidv7(), "noop", "default", null, null, null, 5, null, 0, me, ...limits, json, json.length, null, null, null]
    }
    const create = (payload: Payload) =>
      Effect.scoped(Effect.flatMap(reserve, (connection) => connection.execute(text, values(payload), undefined)))
    return {
      each: (next) =>
        runtime.runPromise(
          Effect.gen(function* () {
            for (let payload = next(); payload !== undefined; payload = next()) yield* create(payload)
          })
        ),
      bulk: null,
      close: () => runtime.dispose()
    }
  },

  worker: () => Promise.reject(new Error("it creates runs and works on none"))
})
