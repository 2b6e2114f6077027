/** The protocol holds in every world of its model; and each part of it is needed, since without it there is a world where it does not. */
import { assert, describe, it } from "@effect/vitest"
import { type Protocol, proposed, search, type Violation } from "./model.js"
import { limit, report, scaled } from "./support/campaign.js"

const bounds = [
  { runs: 1, faults: scaled(4, 6) },
  { runs: 2, faults: scaled(1, 3) }
]

const broken: ReadonlyArray<readonly [name: string, change: Partial<Protocol>, kind: Violation]> = [
  ["a guard of the state alone", { guard: "state" }, "stale write accepted"],
  ["no guard", { guard: "none" }, "completed twice"],
  ["heartbeats that do not compare", { reconcile: false }, "stuck"],
  ["a sweep that acts only at the moment of a death", { sweep: "edge" }, "stuck"],
  [
    "a sweep at the moment of a death, and claims without a lease",
    { sweep: "edge", claimNeedsLease: false, trust: true },
    "two live handlers"
  ],
  ["a shutdown that gives back too early", { earlyRelease: true }, "two live handlers"],
  ["a successor outside the transaction", { successor: "after its outcome" }, "no successor"],
  ["no trust window", { trust: false }, "two live handlers"],
  ["claims without a lease", { claimNeedsLease: false }, "two live handlers"]
]

describe("the protocol", () => {
  for (const { faults, runs } of bounds) {
    it(`holds for ${runs} ${runs === 1 ? "run" : "runs"} on two instances, with any ${faults} faults`, limit(30, 900), async () => {
      const { states, violation } = await search(proposed, { runs, faults })
      assert.isNull(violation, violation === null ? "" : `${violation.kind}:\n${violation.trace.join("\n")}`)
      console.log(`the protocol, ${runs} runs, ${faults} faults: ${states} states, no violation`)
      report({
        row: 65,
        what: `all states of the protocol with ${runs} runs, two instances and at most ${faults} faults`,
        database: "model",
        count: states,
        result: "passed",
        figure: `${states} states, 0 violations`
      })
    })
  }

  it.each(broken)("does not hold with %s", async (name, change, kind) => {
    const { states, violation } = await search({ ...proposed, ...change }, { runs: 1, faults: 3 })
    assert.strictEqual(violation?.kind, kind, violation?.trace.join("\n"))
    console.log(`${name}: ${kind} after ${violation!.trace.length} steps (${states} states)\n  ${violation!.trace.join("\n  ")}`)
    report({
      row: 65,
      what: `the protocol with ${name}`,
      database: "model",
      count: states,
      result: "passed",
      figure: `${kind} after ${violation!.trace.length} steps`
    })
  })
})
