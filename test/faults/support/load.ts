/** Users who go on creating runs whatever happens to the database, and remember what they were told. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option } from "effect"
import type { Jobsd, Run } from "jobsd"
import { eventually } from "../../support/world.js"
import { large, recoveredShare, recovery, scaled, secondsWatched } from "./campaign.js"
import { defects, noDefects } from "./checker.js"
import { Act, type Payload } from "./work.js"
import { type AuditedWorld, allEnded } from "./world.js"

/** a crash is the test's doing, and no reason to give a run up */
export const untiring = { retriesOnCrash: Number.POSITIVE_INFINITY } as const

/** Creates a run every few milliseconds until it is stopped. */
export const createMeanwhile = (jobsd: Jobsd.Jobsd.Service, payload: () => Payload, everyMillis = 20) =>
  Effect.gen(function* () {
    const accepted: Array<Run.RunId> = []
    const failures: Array<string> = []
    const defects: Array<string> = []
    const remember = (exit: Exit.Exit<Run.RunId, unknown>) => {
      if (Exit.isSuccess(exit)) accepted.push(exit.value)
      else if (Option.isSome(Cause.failureOption(exit.cause))) failures.push(Cause.pretty(exit.cause))
      else if (!Cause.isInterruptedOnly(exit.cause)) defects.push(Cause.pretty(exit.cause))
    }
    const create = Effect.suspend(() => Effect.exit(jobsd.createRun(Act, payload(), untiring))).pipe(Effect.map(remember))
    const fiber = yield* Effect.forkScoped(Effect.forever(Effect.zipRight(Effect.uninterruptible(create), Effect.sleep(everyMillis))))
    return {
      accepted: accepted as ReadonlyArray<Run.RunId>,
      /** errors that the types of createRun name */
      failures: failures as ReadonlyArray<string>,
      defects: defects as ReadonlyArray<string>,
      stop: Fiber.interrupt(fiber)
    }
  })

/**
 * Two workers with more to do than they can until it is over, so that what is done in a second is what they can do, and users who go on
 * creating runs. It returns when they have warmed up and been watched for a while; `afterwards` is to be asked when the faults are over.
 */
export const watchedLoad = (world: AuditedWorld, surplus: number, payload: () => Payload) =>
  Effect.gen(function* () {
    const jobsd = yield* world.client()
    yield* Effect.replicateEffect(world.worker(), 2, { concurrency: 2 })
    const ids = yield* Effect.orDie(
      jobsd.createRuns(
        Act,
        Array.from({ length: surplus }, () => ({ do: "succeed", millis: 100 }) as const),
        untiring
      )
    )
    const load = yield* createMeanwhile(jobsd, payload)
    const first = scaled(50, 500)
    yield* eventually(world.unsafe(`SELECT id FROM @_runs WHERE state = 2 LIMIT ${first}`), (done) => done.length === first, "60 seconds")
    yield* Effect.sleep(secondsWatched.before * 1000)

    /** what came of it: everything is done, and as fast as before */
    const afterwards = (faults: { readonly from: number; readonly until: number }) =>
      Effect.gen(function* () {
        const [left] = yield* world.unsafe("SELECT COUNT(*) AS count FROM @_runs WHERE state = 0")
        // the rest is nobody's measure
        yield* world.worker({ workers: 50, connections: 10 })
        yield* allEnded(world, "3 minutes")
        const accepted = [...ids, ...load.accepted]
        const verdict = yield* world.verdict(accepted)
        const completed = yield* world.unsafe("SELECT finished_at FROM @_runs WHERE state = 2")
        const speed = recovery(
          completed.map((row) => Number(row.finished_at)),
          faults
        )
        const isWell = load.defects.length === 0 && isDeepStrictEqual(defects(verdict), noDefects)
        return {
          result: isWell && (!large || speed.ratio >= recoveredShare) ? "passed" : "failed",
          figure: `${accepted.length} accepted, ${load.failures.length} typed errors, lost ${verdict.lost.length}, twice ${verdict.twice.length}, defects ${load.defects.length}; ${speed.figure}`,
          check: () => {
            assert.isAbove(Number(left?.count), 0, "the workers had too little to do to show what they can")
            assert.deepStrictEqual(load.defects, [])
            assert.isFalse(world.workers.some((worker) => worker.hasExited()))
            assert.deepStrictEqual(defects(verdict), noDefects)
            if (large) assert.isAtLeast(speed.ratio, recoveredShare)
          }
        } as const
      })
    return { load, afterwards }
  })
