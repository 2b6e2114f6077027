/**
 * Group commit: whatever waits goes in one statement, at once when idle, many together under load, without a timer. One group is on
 * its way at a time; those who ask meanwhile make the next one.
 */
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"

export const make = <In, Out, E>(options: {
  /** how many of those that wait make a group */
  readonly fitting: (waiting: Iterable<In>) => number
  /** answers each of a group, in order */
  readonly write: (group: ReadonlyArray<In>) => Effect.Effect<ReadonlyArray<Out>, E>
  /** whether an error may be one member's fault alone, so that the others deserve another try */
  readonly isOnes: (error: E) => boolean
  /** whether the driver is synchronous */
  readonly answersAtOnce: boolean
}): ((one: In) => Effect.Effect<Out, E>) => {
  interface Waiter {
    readonly one: In
    readonly resume: (answer: Effect.Effect<Out, E>) => void
  }
  function* ones(waiters: ReadonlyArray<Waiter>) {
    for (const { one } of waiters) yield one
  }
  const waiting: Array<Waiter> = []
  let atWork = false
  /** who asked last */
  let last: FiberId.FiberId | undefined

  const write = (group: ReadonlyArray<Waiter>): Effect.Effect<void> =>
    Effect.matchCauseEffect(
      Effect.suspend(() => options.write(group.map(({ one }) => one))),
      {
        onSuccess: (answers) =>
          Effect.sync(() => {
            for (const [i, { resume }] of group.entries()) resume(Effect.succeed(answers[i]!))
          }),
        onFailure: (cause) =>
          group.length > 1 && (cause._tag !== "Fail" || options.isOnes(cause.error))
            ? Effect.zipRight(write(group.slice(0, group.length / 2)), write(group.slice(group.length / 2)))
            : Effect.sync(() => {
                for (const { resume } of group) resume(Effect.failCause(cause))
              })
      }
    )

  // those who have asked meanwhile make the next group
  const next = (): void => {
    if (waiting.length === 0) {
      atWork = false
      return
    }
    const group = waiting.splice(0, options.fitting(ones(waiting)))
    Effect.runFork(
      Effect.zipRight(
        write(group),
        Effect.sync(() => {
          if (options.answersAtOnce) next()
          // those who have their answers now may ask again at once: ten of them would go nine and one by turns
          else setImmediate(next)
        })
      )
    )
  }

  return (one) =>
    // whoever asks for a write gets to know what has come of it
    Effect.uninterruptible(
      Effect.withFiberRuntime<Out, E>((fiber) => {
        // who asks again when its own was the last has nobody beside it
        const alone = !options.answersAtOnce || fiber.id() === last
        last = fiber.id()
        if (atWork || !alone) {
          return Effect.async<Out, E>((resume) => {
            waiting.push({ one, resume })
            if (!atWork) {
              // nobody can ask while a synchronous driver is at work: those who ask in this turn make the group
              atWork = true
              queueMicrotask(next)
            }
          })
        }
        // nobody else waits: written by the caller's own fiber, which saves two hops
        atWork = true
        const over = () => {
          if (waiting.length === 0) atWork = false
          else setImmediate(next)
        }
        return Effect.matchCauseEffect(options.write([one]), {
          onSuccess: ([answer]) => {
            over()
            return Effect.succeed(answer!)
          },
          onFailure: (cause) => {
            over()
            return Effect.failCause(cause)
          }
        })
      })
    )
}
