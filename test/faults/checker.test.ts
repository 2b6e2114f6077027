/** A checker that finds nothing wrong with anything would be worthless: each kind of defect, in a history that has just that one. */
import { assert, describe, it } from "@effect/vitest"
import { check, defects, type Execution, type History, noDefects, type Transition } from "./support/checker.js"

let seq = 0

const change = (run: string, from: number | null, to: number, more: Partial<Transition> = {}): Transition => ({
  seq: ++seq,
  run,
  from,
  to,
  fence: 0,
  owner: null,
  token: null,
  errors: 0,
  timeouts: 0,
  crashes: 0,
  key: null,
  origin: run,
  occurrence: 0,
  schedule: null,
  successCount: 0,
  successLimit: null,
  ...more
})

const claim = (run: string, fence: number, more: Partial<Transition> = {}) =>
  change(run, 0, 1, { fence, owner: "p", token: `${run} ${fence}`, ...more })

/** a run that crashed once and then succeeded */
const life = (run: string, more: Partial<Transition> = {}): ReadonlyArray<Transition> => [
  change(run, null, 0, more),
  claim(run, 1, more),
  change(run, 1, 6, { ...more, fence: 2, token: `${run} 1`, crashes: 1 }),
  change(run, 6, 1, { ...more, fence: 3, owner: "q", token: `${run} 3`, crashes: 1 }),
  change(run, 1, 2, { ...more, fence: 3, token: `${run} 3`, crashes: 1, key: null })
]

const history = (transitions: ReadonlyArray<Transition>, more: Partial<History> = {}): History => {
  const last = new Map(transitions.map(({ run, to }) => [run, to]))
  return { accepted: [...last.keys()], transitions, rows: [...last].map(([id, state]) => ({ id, state })), ...more }
}

const found = (broken: History) => {
  const all = defects(check(broken))
  return (Object.keys(all) as Array<keyof typeof all>).filter((kind) => all[kind].length > 0)
}

const successor = (run: string, occurrence: number, more: Partial<Transition> = {}) =>
  [null, 0, 1].map((from, i) =>
    change(run, from, i, {
      origin: "a0",
      occurrence,
      schedule: "s",
      fence: i === 0 ? 0 : 1,
      owner: i === 1 ? "p" : null,
      token: i === 0 ? null : `${run} 1`,
      successCount: occurrence + (i === 2 ? 1 : 0),
      ...more
    })
  )

const at = (run: string, pid: number, from: number, until: number): Execution => ({ run, attempt: 1, pid, from, until })

describe("the checker", () => {
  it("finds nothing wrong with a run that crashed, was taken over and succeeded", () => {
    assert.deepStrictEqual(defects(check(history(life("a")))), noDefects)
  })

  it("finds a run that is lost, and one that never ended", () => {
    assert.deepStrictEqual(found({ ...history(life("a")), rows: [] }), ["lost"])
    assert.deepStrictEqual(found(history(life("a").slice(0, 4))), ["unfinished"])
  })

  it("finds an outcome that was recorded twice, and one that was changed", () => {
    assert.deepStrictEqual(found(history([...life("a"), change("a", 2, 2, { fence: 3, crashes: 1 })])), ["twice"])
    assert.deepStrictEqual(found(history([...life("a"), change("a", 2, 3, { fence: 3, crashes: 1 })])), ["twice"])
  })

  it("finds transitions that nobody may make", () => {
    const [born, claimed, , again, done] = life("a")
    assert.deepStrictEqual(found(history([born!, change("a", 0, 2)])), ["illegal"])
    assert.deepStrictEqual(found(history([born!, change("a", 0, 0)], { accepted: [] })), ["illegal"])
    assert.deepStrictEqual(found(history([claimed!, change("a", 1, 2, { fence: 1 })])), ["illegal"])
    assert.deepStrictEqual(
      found(history([born!, claimed!, change("a", 1, 1, { fence: 1, owner: "q", token: "a 1" }), change("a", 1, 2, { fence: 1 })])),
      ["illegal"]
    )
    assert.deepStrictEqual(
      found(
        history([
          born!,
          claimed!,
          change("a", 1, 0, { fence: 2, crashes: 2 }),
          { ...again!, from: 0, crashes: 2 },
          { ...done!, crashes: 2 }
        ])
      ),
      ["illegal"]
    )
    assert.deepStrictEqual(found(history([...life("a"), change("a", 2, 0, { fence: 3, crashes: 1 })], { accepted: [] })), ["illegal"])
  })

  it("finds a row that says what no transition has made of it", () => {
    assert.deepStrictEqual(found(history(life("a"), { rows: [{ id: "a", state: 3 }] })), ["illegal"])
  })

  it("finds fences that stand still or fall", () => {
    const [born, claimed] = life("a")
    assert.deepStrictEqual(found(history([born!, claim("a", 0), change("a", 1, 2)])), ["fences"])
    assert.deepStrictEqual(found(history([born!, claimed!, change("a", 1, 2, { fence: 0 })])), ["fences"])
    assert.deepStrictEqual(
      found(
        history([
          born!,
          claimed!,
          change("a", 1, 0, { fence: 1, crashes: 1 }),
          claim("a", 2, { crashes: 1 }),
          change("a", 1, 2, { fence: 2, crashes: 1 })
        ])
      ),
      ["fences"]
    )
  })

  it("finds two live runs of one unique key", () => {
    const a = life("a", { key: "k" })
    const b = life("b", { key: "k" })
    assert.deepStrictEqual(found(history([...a, ...b].map((transition, i) => ({ ...transition, seq: i })))), [])
    assert.deepStrictEqual(
      found(history([a[0]!, b[0]!, ...a.slice(1), ...b.slice(1)].map((transition, i) => ({ ...transition, seq: i })))),
      ["keys"]
    )
  })

  it("finds gaps, missing and superfluous successors in a chain", () => {
    const live = (run: string, occurrence: number) => successor(run, occurrence).slice(0, 1)
    const first = successor("a0", 0)
    assert.deepStrictEqual(found(history([...first, ...successor("a1", 1), ...live("a2", 2)], { accepted: ["a0"] })), [])
    assert.deepStrictEqual(found(history(first)), ["chains"])
    assert.deepStrictEqual(found(history([...first, ...live("a2", 2)], { accepted: ["a0"] })), ["chains"])
    assert.deepStrictEqual(found(history([...successor("a0", 0, { successLimit: 1 }), ...live("a1", 1)], { accepted: ["a0"] })), ["chains"])
    const early = live("a1", 1)
    assert.deepStrictEqual(
      found(
        history(
          [first[0]!, ...early, ...first.slice(1)].map((transition, i) => ({ ...transition, seq: i })),
          { accepted: ["a0"] }
        )
      ),
      ["chains"]
    )
  })

  it("finds handlers that overlap, unless the first one's process was frozen", () => {
    const executions = [at("a", 1, 100, 500), at("a", 2, 400, 600)]
    assert.deepStrictEqual(found(history(life("a"), { executions })), ["unexplained"])
    assert.deepStrictEqual(found(history(life("a"), { executions, freezes: [{ pid: 1, from: 200, until: 450 }] })), [])
    assert.deepStrictEqual(found(history(life("a"), { executions, freezes: [{ pid: 2, from: 200, until: 450 }] })), ["unexplained"])
    assert.strictEqual(check(history(life("a"), { executions, freezes: [{ pid: 1, from: 200, until: 450 }] })).overlaps.explained, 1)
  })

  it("finds a handler that started more often than its run was claimed", () => {
    const executions = [at("a", 1, 100, 200), at("a", 2, 300, 400), at("a", 2, 500, 600)]
    assert.deepStrictEqual(found(history(life("a"), { executions })), ["illegal"])
  })
})
