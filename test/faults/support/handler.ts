/** What the handler of the tests' job does with a payload. */
import { SqlClient } from "@effect/sql"
import { Effect } from "effect"
import type { Run } from "jobsd"
import type { Payload } from "./work.js"

const spin = (millis: number) => {
  const until = performance.now() + millis
  while (performance.now() < until) {}
}

const hoarded: Array<Array<number>> = []

export const perform = (payload: Payload, run: Run.RunInfo): Effect.Effect<void, string, SqlClient.SqlClient> =>
  payload.stubborn === true ? Effect.uninterruptible(deed(payload, run)) : deed(payload, run)

const deed = (payload: Payload, run: Run.RunInfo): Effect.Effect<void, string, SqlClient.SqlClient> => {
  const millis = payload.millis ?? 0
  switch (payload.do) {
    case "succeed":
      return Effect.sleep(millis)
    case "fail":
      return Effect.zipRight(Effect.sleep(millis), run.attempt <= (payload.times ?? 1) ? Effect.fail("as asked") : Effect.void)
    case "fail always":
      return Effect.zipRight(Effect.sleep(millis), Effect.fail("as asked"))
    case "never end":
      return Effect.never
    case "hang once":
      return run.attempt === 1 ? Effect.never : Effect.sleep(millis)
    case "busy":
      return run.attempt <= (payload.times ?? Number.POSITIVE_INFINITY) ? Effect.sync(() => spin(millis)) : Effect.void
    case "abort":
      return Effect.delay(
        Effect.sync(() => process.abort()),
        millis
      )
    case "exit":
      return Effect.delay(
        Effect.sync(() => process.exit(0)),
        millis
      )
    case "throw outside":
      return Effect.zipRight(
        Effect.sync(() =>
          setTimeout(() => {
            throw new Error("nobody catches this")
          }, millis)
        ),
        Effect.never
      )
    case "hoard":
      // without a turn for anybody: a process that fights for longer than its lease could hear that it is presumed dead, and live on
      return Effect.sync(() => {
        for (;;) hoarded.push(Array.from({ length: 100_000 }, Math.random))
      })
    case "sql":
      return Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql.withTransaction(Effect.zipRight(sql`SELECT 1`, Effect.zipRight(Effect.sleep(millis), sql`SELECT 2`)))
        yield* Effect.all([sql`SELECT 3`, sql`SELECT 4`, sql`SELECT 5`], { concurrency: "unbounded" })
      }).pipe(Effect.mapError(String), Effect.asVoid)
  }
}
