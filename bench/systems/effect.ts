/**
 * The pick-up of a queue that is made of Effect's client and fibers, as one would write them down, and of nothing else: the bare driver's
 * statements, kept as functions, for this client has no prepared ones; no leases, schemas or retries. It is not made for drains.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Fiber, ManagedRuntime, Redacted, Stream } from "effect"
import pg from "pg"
import type { Kind, Payload, System } from "../system.ts"
import { claim, complete, insert } from "./raw-postgres.ts"
import { libraryTables } from "./runs.ts"
import { uuidv7 } from "./uuid.ts"

const functions = `
  CREATE FUNCTION bench_create(uuid[], text[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    ${insert}; PERFORM pg_notify('bench', 'new');
  END $$;
  CREATE FUNCTION bench_claim(uuid) RETURNS TABLE (run_id uuid, run_payload text) LANGUAGE plpgsql AS $$ BEGIN
    RETURN QUERY ${claim};
  END $$;
  CREATE FUNCTION bench_complete(uuid[], uuid, bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    ${complete};
  END $$`

interface Claimed {
  readonly run_id: string
  readonly run_payload: string
}

const query = (text: string, values: ReadonlyArray<unknown>) =>
  Effect.scoped(
    Effect.flatMap(PgClient.PgClient, ({ reserve }) =>
      Effect.flatMap(reserve, (connection) => connection.execute(text, values, undefined))
    )
  )

const create = (payload: Payload) => query("SELECT bench_create($1, $2)", [[uuidv7()], [JSON.stringify(payload)]])

const runtimeOf = (url: string) => ManagedRuntime.make(PgClient.layer({ url: Redacted.make(url), maxConnections: 10 }))

export const make = (_: string, on: Kind): System => {
  const tables = libraryTables(on)
  return {
    ...tables,

    prepare: async (url) => {
      await tables.prepare(url)
      const connection = new pg.Client(url)
      await connection.connect()
      await connection.query(functions)
      await connection.end()
    },

    producer: async (url) => {
      const runtime = runtimeOf(url)
      await runtime.runtime()
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

    worker: async (url, { run }) => {
      const runtime = runtimeOf(url)
      await runtime.runtime()

      const attempt = ({ run_payload }: Claimed) =>
        Effect.suspend(() => {
          const done = run(JSON.parse(run_payload))
          return done === undefined ? Effect.void : Effect.promise(() => done)
        })

      const working = Effect.gen(function* () {
        const { listen } = yield* PgClient.PgClient
        const word = yield* Effect.makeLatch()
        yield* Effect.forkScoped(Stream.runForEach(listen("bench"), () => word.open))
        while (true) {
          yield* word.close
          const token = uuidv7()
          const claimed = (yield* query("SELECT * FROM bench_claim($1)", [token])) as ReadonlyArray<Claimed>
          if (claimed.length === 0) {
            yield* Effect.timeoutOption(word.await, "2 seconds")
            continue
          }
          const startedAt = Date.now()
          yield* Fiber.joinAll(yield* Effect.forEach(claimed, (row) => Effect.fork(attempt(row))))
          yield* query("SELECT bench_complete($1, $2, $3)", [claimed.map(({ run_id }) => run_id), token, startedAt])
        }
      })
      const fiber = runtime.runFork(Effect.scoped(working))
      return {
        stop: async () => {
          await runtime.runPromise(Fiber.interrupt(fiber))
          await runtime.dispose()
        }
      }
    }
  }
}
