/**
 * Accounts for every run of a history: what the table went through, in its order, and what the handlers did. It asserts nothing and
 * throws nothing; it says what it found.
 */

/** One change of a row of the runs table, as a trigger saw it. */
export interface Transition {
  readonly seq: number
  readonly run: string
  /** null: it was inserted */
  readonly from: number | null
  readonly to: number
  readonly fence: number
  readonly owner: string | null
  readonly token: string | null
  readonly errors: number
  readonly timeouts: number
  readonly crashes: number
  readonly key: string | null
  readonly origin: string
  readonly occurrence: number
  readonly schedule: string | null
  readonly successCount: number
  readonly successLimit: number | null
}

/** A handler at work on a run, on the clock of the machine that all processes share. */
export interface Execution {
  readonly run: string
  readonly attempt: number
  readonly pid: number
  readonly from: number
  readonly until: number
}

/** A time in which a process could not act: stopped, or its event loop blocked. */
export interface Freeze {
  readonly pid: number
  readonly from: number
  readonly until: number
}

export interface History {
  /** the runs whose createRun reported success */
  readonly accepted: ReadonlyArray<string>
  readonly transitions: ReadonlyArray<Transition>
  /** the table at the end */
  readonly rows: ReadonlyArray<{ readonly id: string; readonly state: number }>
  readonly executions?: ReadonlyArray<Execution>
  readonly freezes?: ReadonlyArray<Freeze>
}

export interface Verdict {
  /** accepted, and not in the table */
  readonly lost: ReadonlyArray<string>
  /** accepted, and not in a terminal state; the live end of a chain does not count */
  readonly unfinished: ReadonlyArray<string>
  /** recorded twice: a terminal state that was written again */
  readonly twice: ReadonlyArray<string>
  readonly illegal: ReadonlyArray<string>
  readonly fences: ReadonlyArray<string>
  readonly keys: ReadonlyArray<string>
  readonly chains: ReadonlyArray<string>
  /** two handlers of one run at work at the same time */
  readonly overlaps: { readonly explained: number; readonly unexplained: ReadonlyArray<string> }
  /** what happened, for the figures */
  readonly seen: {
    readonly runs: number
    readonly succeeded: number
    readonly failed: number
    readonly cancelled: number
    readonly claims: number
    readonly crashes: number
  }
}

/** The parts of a verdict that must be empty whatever happened. */
export const defects = ({ chains, fences, illegal, keys, lost, overlaps, twice, unfinished }: Verdict) => ({
  lost,
  unfinished,
  twice,
  illegal,
  fences,
  keys,
  chains,
  unexplained: overlaps.unexplained
})

export const noDefects: ReturnType<typeof defects> = {
  lost: [],
  unfinished: [],
  twice: [],
  illegal: [],
  fences: [],
  keys: [],
  chains: [],
  unexplained: []
}

const ready = 0
const running = 1
const succeeded = 2
const failed = 3
const cancelled = 4
const parked = 5
/** ready, but found in a process that died: for the life of a run it is the same as ready */
const suspect = 6

const names = ["ready", "running", "succeeded", "failed", "cancelled", "parked", "suspect"]
const isTerminal = (state: number) => state === succeeded || state === failed || state === cancelled
const isLive = (state: number) => !isTerminal(state)
const plain = (state: number) => (state === suspect ? ready : state)

const legal = new Set(
  [
    [ready, running],
    [ready, cancelled],
    [ready, parked],
    [parked, ready],
    [parked, cancelled],
    [running, running],
    [running, ready],
    [running, succeeded],
    [running, failed],
    [running, cancelled]
  ].map(([from, to]) => `${from} ${to}`)
)

const groupBy = <A>(items: ReadonlyArray<A>, key: (item: A) => string): ReadonlyMap<string, ReadonlyArray<A>> => {
  const groups = new Map<string, Array<A>>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group === undefined) groups.set(key(item), [item])
    else group.push(item)
  }
  return groups
}

const told = ({ from, run, seq, to }: Transition) => `${run} #${seq} ${from === null ? "nothing" : names[from]} -> ${names[to]}`

/** What is wrong with the life of one run. */
const checkLife = (life: ReadonlyArray<Transition>) => {
  const twice: Array<string> = []
  const illegal: Array<string> = []
  const fences: Array<string> = []
  life.forEach((now, i) => {
    const before = life[i - 1]
    if (before === undefined) {
      if (now.from !== null || plain(now.to) !== ready) illegal.push(`${told(now)}: not how a run begins`)
      return
    }
    if (now.from === null || now.from !== before.to) {
      illegal.push(`${told(now)}: it was ${names[before.to]}`)
      return
    }
    if (isTerminal(now.from)) {
      if (isTerminal(now.to)) twice.push(now.run)
      else illegal.push(`${told(now)}: it had ended`)
      return
    }
    const sameButSuspect = plain(now.from) === plain(now.to) && now.from !== now.to
    if (!sameButSuspect && !legal.has(`${plain(now.from)} ${plain(now.to)}`)) illegal.push(told(now))

    const claimed = now.to === running && now.from !== running
    if (now.fence < before.fence) fences.push(`${told(now)}: the fence fell from ${before.fence} to ${now.fence}`)
    if (claimed && now.fence <= before.fence) fences.push(`${told(now)}: claimed with the fence it had`)
    if (claimed && (now.owner === null || now.token === null || now.token === before.token)) {
      illegal.push(`${told(now)}: claimed without an owner, or without a token of its own`)
    }
    if (now.crashes > before.crashes && now.fence <= before.fence) fences.push(`${told(now)}: taken back with the fence it had`)
    if (now.from === running && now.to === running && (now.fence !== before.fence || now.owner !== before.owner)) {
      illegal.push(`${told(now)}: another holder without an end of the first`)
    }
    if (now.to !== running && now.owner !== null) illegal.push(`${told(now)}: it has an owner`)
    if (isTerminal(now.to) && now.key !== null) illegal.push(`${told(now)}: it has ended and holds its key`)
    const counted = now.errors - before.errors + (now.timeouts - before.timeouts) + (now.crashes - before.crashes)
    if (counted < 0 || counted > 1) illegal.push(`${told(now)}: ${counted} failures at once`)
    if (counted !== 0 && now.from !== running) illegal.push(`${told(now)}: a failure without an attempt`)
  })
  return { twice, illegal, fences }
}

/** At most one live run per unique key, at all times. */
const checkKeys = (transitions: ReadonlyArray<Transition>): ReadonlyArray<string> => {
  const found: Array<string> = []
  const holders = new Map<string, string>()
  const held = new Map<string, string>()
  for (const { key, run } of transitions) {
    const before = held.get(run)
    if (before !== undefined && before !== key && holders.get(before) === run) holders.delete(before)
    if (key === null) {
      held.delete(run)
      continue
    }
    const holder = holders.get(key)
    if (holder !== undefined && holder !== run) found.push(`${key.slice(0, 8)} is held by ${holder} and ${run}`)
    holders.set(key, run)
    held.set(run, key)
  }
  return found
}

/** Occurrences without gaps, at most one live at any time, and one successor for each that ended and is not the chain's last. */
const checkChains = (transitions: ReadonlyArray<Transition>): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const [origin, chain] of groupBy(transitions, ({ origin }) => origin)) {
    const states = new Map<string, Transition>()
    for (const transition of chain) {
      states.set(transition.run, transition)
      const live = [...states.values()].filter(({ to }) => isLive(to))
      if (live.length > 1) found.push(`${origin}: ${live.length} live runs at #${transition.seq}`)
    }
    const last = [...states.values()].sort((a, b) => a.occurrence - b.occurrence)
    last.forEach((run, i) => {
      if (run.occurrence !== i) found.push(`${origin}: occurrence ${run.occurrence} where ${i} was due`)
      const isLast = i === last.length - 1
      const ends =
        run.schedule === null ||
        run.to === cancelled ||
        (run.successLimit !== null && run.successCount >= run.successLimit) ||
        isLive(run.to)
      if (isLast && !ends) found.push(`${origin}: occurrence ${run.occurrence} has ended without a successor`)
      if (!isLast && ends) found.push(`${origin}: occurrence ${run.occurrence} has a successor that is not due`)
    })
  }
  return found
}

const checkOverlaps = (executions: ReadonlyArray<Execution>, freezes: ReadonlyArray<Freeze>): Verdict["overlaps"] => {
  let explained = 0
  const unexplained: Array<string> = []
  for (const [run, ofRun] of groupBy(executions, ({ run }) => run)) {
    const sorted = [...ofRun].sort((a, b) => a.from - b.from)
    sorted.forEach((later, i) => {
      for (const earlier of sorted.slice(0, i)) {
        if (later.from >= earlier.until) continue
        const frozen = freezes.some(({ from, pid, until }) => pid === earlier.pid && from <= later.from && until > earlier.from)
        if (frozen) explained++
        else unexplained.push(`${run}: attempt ${later.attempt} began while attempt ${earlier.attempt} was at work`)
      }
    })
  }
  return { explained, unexplained }
}

export const check = ({ accepted, executions = [], freezes = [], rows, transitions }: History): Verdict => {
  const sorted = [...transitions].sort((a, b) => a.seq - b.seq)
  const lives = groupBy(sorted, ({ run }) => run)
  const problems = [...lives.values()].map(checkLife)
  const illegal = problems.flatMap((problem) => problem.illegal)
  const states = new Map(rows.map(({ id, state }) => [id, state]))
  for (const [run, life] of lives) {
    const state = states.get(run)
    if (state !== undefined && state !== life.at(-1)!.to) illegal.push(`${run} is ${names[state]}, and nobody saw it become so`)
  }
  const claims = sorted.filter(({ from, to }) => to === running && from !== running)
  const claimsOf = groupBy(claims, ({ run }) => run)
  for (const [run, ofRun] of groupBy(executions, ({ run }) => run)) {
    const claimed = claimsOf.get(run)?.length ?? 0
    if (ofRun.length > claimed) illegal.push(`${run} was claimed ${claimed} times and started ${ofRun.length} times`)
  }
  const ended = (state: number) => rows.filter((row) => row.state === state).length
  const scheduled = new Set(sorted.flatMap(({ run, schedule }) => (schedule === null ? [] : [run])))
  return {
    lost: accepted.filter((id) => !states.has(id)),
    unfinished: accepted.filter((id) => !scheduled.has(id) && isLive(states.get(id) ?? succeeded)),
    twice: problems.flatMap((problem) => problem.twice),
    illegal,
    fences: problems.flatMap((problem) => problem.fences),
    keys: checkKeys(sorted),
    chains: checkChains(sorted),
    overlaps: checkOverlaps(executions, freezes),
    seen: {
      runs: rows.length,
      succeeded: ended(succeeded),
      failed: ended(failed),
      cancelled: ended(cancelled),
      claims: claims.length,
      crashes: [...lives.values()].reduce((sum, life) => sum + life.at(-1)!.crashes, 0)
    }
  }
}
