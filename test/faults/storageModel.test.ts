/** Random lives of runs, on the real tables and in a model of them: after every command both say the same. */
import { SqlClient } from "@effect/sql"
import { assert } from "@effect/vitest"
import { Effect, FastCheck as fc, Runtime } from "effect"
import { aBreath } from "../../src/internal/aBreath.js"
import * as databases from "../../src/internal/storage/database.js"
import { dialectOf } from "../../src/internal/storage/dialect.js"
import { migrate } from "../../src/internal/storage/migrations.js"
import { onEveryDatabase } from "../support/databases.js"
import { command } from "./storageModel.js"
import { emptyTally, events, play } from "./storageModelDriver.js"
import { limit, report, scaled, seed } from "./support/campaign.js"

onEveryDatabase("the storage", (it, name) => {
  const sequences = Number(process.env.JOBSD_SEQUENCES ?? scaled(150, 10_000))

  it.scoped(
    `does what its model does, in ${sequences} random sequences of commands (JOBSD_SEED=${seed})`,
    () =>
      Effect.gen(function* () {
        const sql = (yield* SqlClient.SqlClient).withoutTransforms()
        const database = yield* databases.make(sql, dialectOf(sql)!, "model")
        yield* migrate(database)
        const run = Runtime.runPromise(yield* Effect.runtime<never>())
        const tally = emptyTally()
        // without the bias towards few and equal commands, which lead nowhere
        const sequence = fc.noBias(fc.array(command, { minLength: 10, maxLength: 60, size: "max" }))
        const holds = fc.asyncProperty(sequence, async (sequence) => {
          // SQLite answers at once, and a loop that is never idle lets nobody hear that the test lives
          await run(Effect.zipRight(play(database, sequence, tally), aBreath))
        })
        yield* Effect.promise(() => fc.assert(holds, { seed, numRuns: sequences }))
        // what is rare needs many sequences
        for (const event of sequences < 200 ? events.slice(0, 3) : events) assert.isAbove(tally[event], 0, event)
        report({
          row: 66,
          what: "random sequences of commands on the storage, compared with a model after each command",
          database: name,
          count: sequences,
          result: "passed",
          figure: events.map((event) => `${event} ${tally[event]}`).join(", ")
        })
      }),
    limit(120, 4 * 3600)
  )
})
