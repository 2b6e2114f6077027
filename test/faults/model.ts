/**
 * The protocol as an explicit-state model: two instances, a table, and what can go wrong between them, searched breadth first. It
 * knows no SQL: the storage model and the stories about its guards show that the statements do what stands here.
 *
 * Fences are told only as "current" or not, since an old one never becomes current again, and identities as that of a node now, one
 * that a process left behind, or one declared dead. So the states are finite, without a bound on retries or claims. Time is only what it
 * decides: a lease runs out if its holder is down, stands still or is cut off.
 */

import { Effect } from "effect"
import { aBreath } from "../../src/internal/aBreath.js"

/** The protocol, and what it becomes when a part is left out, or done as others do it. */
export interface Protocol {
  /** what a write about a running run must match */
  readonly guard: "fence" | "state" | "none"
  /** whether a heartbeat compares the rows an instance owns with the handlers it has */
  readonly reconcile: boolean
  /** whether a sweep looks at what is, or acts only at the moment of a death */
  readonly sweep: "level" | "edge"
  /** whether a shutdown gives back runs whose handlers still go on */
  readonly earlyRelease: boolean
  readonly successor: "with its outcome" | "after its outcome"
  /** whether a holder that cannot confirm its lease stops its handlers before the lease ends */
  readonly trust: boolean
  /** whether a claim asks for a valid lease of its instance */
  readonly claimNeedsLease: boolean
}

export const proposed: Protocol = {
  guard: "fence",
  reconcile: true,
  sweep: "level",
  earlyRelease: false,
  successor: "with its outcome",
  trust: true,
  claimNeedsLease: true
}

/** A number is a node as it is registered now; "left" an identity whose process was killed, "dead" one declared dead or signed off. */
type Owner = number | "left" | "dead" | null

interface Row {
  readonly state: "ready" | "running" | "done" | "cancelled"
  readonly owner: Owner
  readonly cancel: boolean
  readonly successors: number
}

/** What a node has of a run. `current`: no other claim, and no taking back, has come after its own. */
interface Held {
  /** a handler at work; excused: its process stood still while the lease ran out */
  readonly handler: { readonly current: boolean; readonly excused: boolean } | null
  /** an outcome that is not acknowledged */
  readonly outcome: { readonly current: boolean; readonly success: boolean } | null
  /** a successor to be written, where that is done afterwards */
  readonly owes: boolean
}

interface Node {
  readonly process: "up" | "paused" | "down"
  readonly connected: boolean
  readonly draining: boolean
  /** as the table has it */
  readonly dead: boolean
  readonly leased: boolean
  readonly held: ReadonlyArray<Held>
}

interface World {
  readonly rows: ReadonlyArray<Row>
  readonly nodes: ReadonlyArray<Node>
  readonly faults: number
}

export type Violation = "stale write accepted" | "completed twice" | "two live handlers" | "two successors" | "stuck" | "no successor"

interface Step {
  readonly name: string
  readonly after: World
  /** something that nobody can count on to happen */
  readonly fault: boolean
  readonly broken: Violation | null
}

const nothing: Held = { handler: null, outcome: null, owes: false }
const isOver = ({ state }: Row) => state === "done" || state === "cancelled"
const expectedSuccessors = ({ cancel, state }: Row) => (state === "done" && !cancel ? 1 : 0)
const isGoal = ({ rows }: World) => rows.every((row) => isOver(row) && row.successors === expectedSuccessors(row))

const replaced = <A>(list: ReadonlyArray<A>, index: number, change: Partial<A>): ReadonlyArray<A> =>
  list.map((item, i) => (i === index ? { ...item, ...change } : item))
const onRow = (world: World, r: number, change: Partial<Row>): World => ({ ...world, rows: replaced(world.rows, r, change) })
const onNode = (world: World, n: number, change: Partial<Node>): World => ({ ...world, nodes: replaced(world.nodes, n, change) })
const onHeld = (world: World, n: number, r: number, change: Partial<Held>): World =>
  onNode(world, n, { held: replaced(world.nodes[n]!.held, r, change) })

/** the fence of a run has risen: what anybody has of it is of yesterday */
const outdated = (world: World, r: number): World => ({
  ...world,
  nodes: world.nodes.map((node) => {
    const { handler, outcome } = node.held[r]!
    return {
      ...node,
      held: replaced(node.held, r, {
        handler: handler && { ...handler, current: false },
        outcome: outcome && { ...outcome, current: false }
      })
    }
  })
})

const putBack = (world: World, r: number): World =>
  outdated(onRow(world, r, { state: world.rows[r]!.cancel ? "cancelled" : "ready", owner: null }), r)

/** rows of an identity get another: a process was replaced, or declared dead */
const disowned = (world: World, owner: Owner, now: Owner): World => ({
  ...world,
  rows: world.rows.map((row) => (row.owner === owner ? { ...row, owner: now } : row))
})

/** a new process in the place of an old one, whose identity stays behind */
const fresh = (world: World, n: number, left: Owner): World =>
  onNode(disowned(world, n, left), n, {
    process: "up",
    connected: true,
    draining: false,
    dead: false,
    leased: true,
    held: world.rows.map(() => nothing)
  })

/** Everything that can happen next. */
const stepsFrom = (protocol: Protocol, world: World): ReadonlyArray<Step> => {
  const steps: Array<Step> = []
  const happens = (name: string, after: World, broken: Violation | null = null) => steps.push({ name, after, fault: false, broken })
  const fails = (name: string, after: World, broken: Violation | null = null) =>
    steps.push({ name, after: { ...after, faults: after.faults + 1 }, fault: true, broken })
  const { nodes, rows } = world
  const isDead = (owner: Owner) => owner === "dead" || (typeof owner === "number" && nodes[owner]!.dead)

  const claims = (n: number, r: number) => {
    const { dead, draining, held, leased } = nodes[n]!
    const may = protocol.claimNeedsLease ? !dead && leased && !draining : !draining
    if (rows[r]!.state !== "ready" || !may) return
    const claimed = onRow(outdated(world, r), r, { state: "running", owner: n })
    // what still runs here is not started twice: the claim is one that nobody works on
    happens(
      `node ${n} claims run ${r}`,
      held[r]!.handler === null ? onHeld(claimed, n, r, { handler: { current: true, excused: false } }) : claimed
    )
    fails(`node ${n} claims run ${r}, and the answer is lost`, claimed)
  }

  const settles = (n: number, r: number): void => {
    const { outcome } = nodes[n]!.held[r]!
    if (outcome === null) return
    const row = rows[r]!
    const accepted = protocol.guard === "none" || (row.state === "running" && (protocol.guard === "state" || outcome.current))
    if (!accepted) {
      happens(`node ${n} settles run ${r} in vain`, onHeld(world, n, r, { outcome: null }))
      return
    }
    const broken = isOver(row) ? "completed twice" : outcome.current ? null : "stale write accepted"
    const inside = protocol.successor === "with its outcome"
    const done = onRow(world, r, {
      state: "done",
      owner: null,
      successors: row.successors + (inside && !row.cancel ? 1 : 0)
    })
    const after = inside || row.cancel ? done : onHeld(done, n, r, { owes: true })
    const again = onRow(world, r, { state: row.cancel ? "cancelled" : "ready", owner: null })
    const ends: ReadonlyArray<readonly [string, World, World]> = outcome.success
      ? [["success", after, done]]
      : [
          ["failure, for the last time", after, done],
          ["failure, to be tried again", again, again]
        ]
    for (const [what, acknowledged, lost] of ends) {
      happens(`node ${n} settles run ${r}: ${what}`, onHeld(acknowledged, n, r, { outcome: null }), broken)
      fails(`node ${n} settles run ${r}: ${what}, and the answer is lost`, lost, broken)
    }
  }

  const beats = (n: number): void => {
    if (nodes[n]!.dead) {
      // handlers are interrupted, and it registers anew; outcomes are still sent, for the guard to decide
      const anew = fresh(world, n, "dead")
      const outcomes = nodes[n]!.held.map(({ outcome }) => ({ ...nothing, outcome }))
      happens(`node ${n} finds itself dead and registers anew`, onNode(anew, n, { held: outcomes }))
      return
    }
    let after = onNode(world, n, { leased: true })
    for (const [r, row] of rows.entries()) {
      const { handler, outcome } = after.nodes[n]!.held[r]!
      const mine = row.state === "running" && row.owner === n
      const known = handler?.current === true || outcome?.current === true
      if (mine && !known && protocol.reconcile) after = putBack(after, r)
      // taken back meanwhile; or to be cancelled, which ends in an outcome that is not tried again
      if (handler !== null && !(mine && handler.current)) after = onHeld(after, n, r, { handler: null })
      else if (handler !== null && row.cancel && outcome === null) {
        after = onHeld(after, n, r, { handler: null, outcome: { current: true, success: false } })
      }
    }
    happens(`node ${n} renews its lease`, after)
  }

  const sweeps = (n: number) => {
    for (const [other, { dead, leased }] of nodes.entries()) {
      if (dead || leased) continue
      const declared = onNode(world, other, { dead: true })
      const rescued = rows.reduce((after, row, r) => (row.state === "running" && row.owner === other ? putBack(after, r) : after), declared)
      happens(`node ${n} declares node ${other} dead`, protocol.sweep === "edge" ? rescued : declared)
    }
    if (rows.some(({ owner }) => owner === "left")) {
      const rescued = rows.reduce((after, row, r) => (row.state === "running" && row.owner === "left" ? putBack(after, r) : after), world)
      happens(`node ${n} declares a killed process dead`, protocol.sweep === "edge" ? rescued : disowned(world, "left", "dead"))
    }
    if (protocol.sweep === "edge") return
    for (const [r, row] of rows.entries()) {
      if (row.state === "running" && isDead(row.owner)) happens(`node ${n} puts back run ${r}`, putBack(world, r))
    }
  }

  const drains = (n: number) => {
    const { dead, draining, held } = nodes[n]!
    if (!draining) {
      if (!dead) fails(`node ${n} shuts down`, onNode(world, n, { draining: true }))
      return
    }
    for (const [r, { handler }] of held.entries()) {
      if (handler === null) continue
      const released = handler.current && rows[r]!.state === "running" ? putBack(world, r) : world
      happens(`node ${n} gives back run ${r}`, protocol.earlyRelease ? released : onHeld(released, n, r, { handler: null }))
    }
    if (held.every(({ handler, outcome }) => handler === null && outcome === null)) {
      happens(`node ${n} signs off, and another takes its place`, fresh(world, n, "dead"))
    }
  }

  for (const [n, node] of nodes.entries()) {
    if (node.process === "up" && node.connected) {
      for (const r of rows.keys()) {
        claims(n, r)
        settles(n, r)
        if (node.held[r]!.owes) {
          const written = onRow(world, r, { successors: rows[r]!.successors + 1 })
          happens(`node ${n} writes the successor of run ${r}`, onHeld(written, n, r, { owes: false }))
        }
      }
      beats(n)
      sweeps(n)
      drains(n)
    }
    if (node.process === "up") {
      for (const [r, { handler, outcome }] of node.held.entries()) {
        if (handler === null || outcome !== null) continue
        for (const success of [true, false]) {
          const ended = onHeld(world, n, r, { handler: null, outcome: { current: handler.current, success } })
          happens(`run ${r} ${success ? "succeeds" : "fails"} on node ${n}`, ended)
        }
      }
    }
    if (node.leased && !(node.process === "up" && node.connected)) {
      // who can run its timers stops its handlers before the lease ends; who stands still cannot, and is excused
      const held = node.held.map((held) => ({
        ...held,
        handler:
          held.handler === null || node.process === "down"
            ? null
            : node.process === "paused"
              ? { ...held.handler, excused: true }
              : protocol.trust
                ? null
                : held.handler
      }))
      happens(`the lease of node ${n} runs out`, onNode(world, n, { leased: false, held }))
    }
    if (node.process === "down") happens(`node ${n} is started again`, fresh(world, n, node.dead ? "dead" : "left"))
    else fails(`node ${n} is killed`, onNode(world, n, { process: "down", draining: false, held: rows.map(() => nothing) }))
    if (node.process === "up") fails(`node ${n} stands still`, onNode(world, n, { process: "paused" }))
    if (node.process === "paused") happens(`node ${n} goes on`, onNode(world, n, { process: "up" }))
    if (node.connected) {
      if (node.process === "up") fails(`node ${n} is cut off`, onNode(world, n, { connected: false }))
    } else happens(`node ${n} is connected again`, onNode(world, n, { connected: true }))
  }
  for (const [r, row] of rows.entries()) {
    if (row.state === "ready") fails(`run ${r} is cancelled`, onRow(world, r, { state: "cancelled" }))
    if (row.state === "running" && !row.cancel) fails(`run ${r} is to be cancelled`, onRow(world, r, { cancel: true }))
  }
  return steps
}

/** what is wrong with a world, whatever led to it */
const wrongWith = ({ nodes, rows }: World): Violation | null => {
  for (const [r, row] of rows.entries()) {
    const live = nodes.flatMap(({ held, process }) => (process === "down" || held[r]!.handler === null ? [] : [held[r]!.handler!]))
    if (live.length > 1 && !live.some(({ excused }) => excused)) return "two live handlers"
    if (row.successors > 1) return "two successors"
  }
  return null
}

const digits = (...choices: ReadonlyArray<boolean>) => choices.reduce((sum, choice) => sum * 2 + (choice ? 1 : 0), 0)

/** a short text that is the same for the same world */
const keyOf = ({ faults, nodes, rows }: World): string => {
  let key = String.fromCharCode(faults)
  for (const { cancel, owner, state, successors } of rows) {
    key += `${state[1]}${owner === null ? "-" : String(owner)[0]}${successors}${cancel ? "c" : ""}`
  }
  for (const { connected, dead, draining, held, leased, process } of nodes) {
    key += process[0]! + digits(connected, draining, dead, leased).toString(16)
    for (const { handler, outcome, owes } of held) {
      key += handler === null ? "-" : digits(handler.current, handler.excused)
      key += outcome === null ? "-" : digits(outcome.current, outcome.success)
      key += owes ? "o" : ""
    }
  }
  return key
}

export interface Verdict {
  readonly states: number
  readonly violation: { readonly kind: Violation; readonly trace: ReadonlyArray<string> } | null
}

/**
 * Searches all worlds that can be reached with so many faults. Wrong is what a step breaks, what is wrong with a world, and a world
 * from which, if nothing else fails, there is no way to all runs over, each with its successor.
 */
export const search = async (
  protocol: Protocol,
  { faults, runs }: { readonly runs: number; readonly faults: number }
): Promise<Verdict> => {
  const row: Row = { state: "ready", owner: null, cancel: false, successors: 0 }
  const rows = Array.from({ length: runs }, () => row)
  const node: Node = { process: "up", connected: true, draining: false, dead: false, leased: true, held: rows.map(() => nothing) }
  const worlds: Array<World> = []
  const names: Array<string> = []
  const parents: Array<number> = []
  const indexes = new Map<string, number>()
  // from where a world can be reached without a fault
  const before: Array<Array<number>> = []

  const trace = (index: number): ReadonlyArray<string> => (index === 0 ? [] : [...trace(parents[index]!), names[index]!])
  const found = (kind: Violation, path: ReadonlyArray<string>): Verdict => ({ states: worlds.length, violation: { kind, trace: path } })
  const add = (world: World, parent: number, name: string): number => {
    const key = keyOf(world)
    const known = indexes.get(key)
    if (known !== undefined) return known
    indexes.set(key, worlds.length)
    parents.push(parent)
    names.push(name)
    before.push([])
    return worlds.push(world) - 1
  }

  add({ rows, nodes: [node, node], faults: 0 }, 0, "")
  for (let index = 0; index < worlds.length; index++) {
    // vitest hears that it lives
    if (index % 10_000 === 0) await Effect.runPromise(aBreath)
    for (const { after, broken, fault, name } of stepsFrom(protocol, worlds[index]!)) {
      if (after.faults > faults) continue
      const wrong = broken ?? wrongWith(after)
      if (wrong !== null) return found(wrong, [...trace(index), name])
      const next = add(after, index, name)
      if (!fault && next !== index) before[next]!.push(index)
    }
  }

  const hopeful = new Uint8Array(worlds.length)
  const queue = worlds.flatMap((world, index) => (isGoal(world) ? [index] : []))
  for (const index of queue) hopeful[index] = 1
  for (let index = queue.pop(); index !== undefined; index = queue.pop()) {
    for (const earlier of before[index]!) {
      if (hopeful[earlier] === 1) continue
      hopeful[earlier] = 1
      queue.push(earlier)
    }
  }
  const hopeless = hopeful.indexOf(0)
  if (hopeless === -1) return { states: worlds.length, violation: null }
  return found(worlds[hopeless]!.rows.every(isOver) ? "no successor" : "stuck", trace(hopeless))
}
