/** What wakes a loop is never lost, wherever the loop is: at work, asleep, or anywhere on its way from one to the other. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scheduler } from "effect"
import { aBreath } from "../src/internal/aBreath.js"
import { make } from "../src/internal/engine/wake.js"
import { eventually } from "./support/world.js"

/** Acts before the n-th operation of a fiber from when it is told to. */
class ActingScheduler extends Scheduler.MixedScheduler {
  private left = 0
  private act: () => void = () => {}

  constructor() {
    super(2048)
  }
  after(operations: number, act: () => void): void {
    this.left = operations
    this.act = act
  }
  /** whether it has acted */
  hasActed(): boolean {
    return this.left <= 0
  }
  override shouldYield(fiber: Fiber.RuntimeFiber<unknown, unknown>): number | false {
    if (this.left > 0 && --this.left === 0) this.act()
    return super.shouldYield(fiber)
  }
}

describe("a wake-up", () => {
  it.live("leads to another turn, before whatever operation of the loop it comes", () =>
    Effect.gen(function* () {
      let acted = 0
      for (let operations = 1; operations <= 100; operations++) {
        const { loop, wake } = yield* make
        const scheduler = new ActingScheduler()
        let turns = 0
        const turn = Effect.sync(() => {
          if (turns++ === 0) scheduler.after(operations, wake)
          return 60_000
        })
        const looping = yield* Effect.fork(Effect.withScheduler(loop(turn), scheduler))
        yield* aBreath
        if (scheduler.hasActed()) acted++
        // it sleeps already
        else wake()
        yield* eventually(
          Effect.sync(() => turns),
          (turns) => turns >= 2,
          "2 seconds"
        )
        yield* Fiber.interruptFork(looping)
      }
      // the way from a turn to sleep has some operations, and less than a hundred
      assert.isAbove(acted, 5)
      assert.isBelow(acted, 100)
    })
  )
})
