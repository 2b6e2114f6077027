/** Users who go on creating runs whatever happens to the database, and remember what they were told. */
import { Cause, Effect, Exit, Fiber, Option } from "effect"
import type { Jobsd, Run } from "jobsd"
import { Act, type Payload } from "./work.js"

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
