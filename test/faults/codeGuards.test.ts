/**
 * Does the suite notice when a guard of the code, rather than of a statement, is missing? Each story is told twice at a time: of an
 * instance that is whole, where it ends well, and of one that lacks its guard, where it must fail with an assertion.
 */
import { assert } from "@effect/vitest"
import { Cause, Chunk, Effect, Exit } from "effect"
import { vi } from "vitest"
import { onEveryDatabase } from "../support/databases.js"
import type { Guard } from "./brokenEngine.js"
import { stories } from "./engineStories.js"
import { large, limit, report } from "./support/campaign.js"

vi.mock("../../src/internal/engine/heartbeat.js", async (original) =>
  (await import("./brokenEngine.js")).heartbeat(await original<typeof import("../../src/internal/engine/heartbeat.js")>())
)
vi.mock("../../src/internal/engine/quarantine.js", async (original) =>
  (await import("./brokenEngine.js")).quarantine(await original<typeof import("../../src/internal/engine/quarantine.js")>())
)

/** whether a story ended with an assertion that failed */
const isMissed = <E>(exit: Exit.Exit<unknown, E>): boolean =>
  Exit.isFailure(exit) && Chunk.some(Cause.defects(exit.cause), (defect) => defect instanceof Error && defect.name === "AssertionError")

const told = (exit: Exit.Exit<unknown, unknown>) => (Exit.isSuccess(exit) ? "nobody missed it" : Cause.pretty(exit.cause))

onEveryDatabase("a guard of the code", (it, database) => {
  // it says little about the database: on one of them, unless there is time
  const test = large || database === "postgres" ? it.scoped : it.scoped.skip
  const here = (Object.keys(stories) as Array<Guard>).filter((guard) => stories[guard].on?.includes(database) !== false)

  test(
    "is missed when it is not there",
    () =>
      Effect.gen(function* () {
        const tell = (guard: Guard, missing: Guard | null) => Effect.exit(Effect.scoped(stories[guard].tell(missing)))
        const exits = yield* Effect.forEach(
          here,
          (guard) =>
            Effect.all(
              { guard: Effect.succeed(guard), whole: tell(guard, null), broken: tell(guard, guard) },
              { concurrency: "unbounded" }
            ),
          { concurrency: "unbounded" }
        )
        const unwell = exits.flatMap(({ guard, whole }) => (Exit.isSuccess(whole) ? [] : [`${guard}: ${told(whole)}`]))
        const survivors = exits.flatMap(({ broken, guard }) => (isMissed(broken) ? [] : [`${guard}: ${told(broken)}`]))
        report({
          row: 70,
          what: "guards taken out of the code one at a time, each noticed by a story",
          database,
          count: here.length,
          result: unwell.length === 0 && survivors.length === 0 ? "passed" : "failed",
          figure: `${here.length - survivors.length} of ${here.length}: ${here.join("; ")}`
        })
        assert.deepStrictEqual({ unwell, survivors }, { unwell: [], survivors: [] })
      }),
    limit(60, 60)
  )
})
