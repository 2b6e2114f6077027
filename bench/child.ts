/**
 * A process of its own for one system, as a producer or as a worker. It answers the harness's calls over IPC; while it works it
 * reports how many runs it has executed, and keeps what only it can know: which ones, how late, with how much CPU and memory.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { now, type Payload, type Producer, type Worker } from "./system.ts"
import { load } from "./systems/index.ts"

const [key = "", url = ""] = process.argv.slice(2)
const system = await load(key)

let producer: Producer | undefined
let worker: Worker | undefined
let ticks: NodeJS.Timeout | undefined
const opened = async () => {
  producer ??= await system.producer(url)
  return producer
}

let nextId = 0
const payload = (): Payload => ({ id: nextId++, at: now() })

interface Create {
  readonly atOnce: number
  readonly millis: number
  /** it creates for so long before it is measured: V8 has then compiled what it uses */
  readonly warmMillis: number
}

/** creates runs for so many milliseconds, so many at once; the rate per second */
const create = async ({ atOnce, millis, warmMillis }: Create) => {
  const { each } = await opened()
  const during = async (millis: number) => {
    const from = nextId
    const start = now()
    const next = () => (now() - start < millis ? payload() : undefined)
    await Promise.all(Array.from({ length: atOnce }, () => each(next)))
    return (1000 * (nextId - from)) / (now() - start)
  }
  await during(warmMillis)
  return during(millis)
}

/** creates so many runs at once; the rate per second, or null if the system has no such call */
const bulk = async ({ count }: { readonly count: number }) => {
  const { bulk } = await opened()
  if (bulk === null) return null
  const payloads = Array.from({ length: count }, payload)
  const start = now()
  await bulk(payloads)
  return (1000 * count) / (now() - start)
}

/** puts runs 0 to count - 1 in the table, in the fastest way there is, and so many before them that only warm up and have no number */
const fill = async ({ count, warm }: { readonly count: number; readonly warm: number }) => {
  const { bulk, each } = await opened()
  nextId = -warm
  if (bulk !== null) {
    while (nextId < count) await bulk(Array.from({ length: Math.min(5000, count - nextId) }, payload))
  } else {
    await Promise.all(Array.from({ length: 50 }, () => each(() => (nextId < count ? payload() : undefined))))
  }
}

/** creates one run that was made elsewhere */
const single =
  ({ each }: Producer) =>
  (payload: Payload): Promise<void> => {
    const left = [payload]
    return each(() => left.pop())
  }

/** creates single runs with random pauses around `millis`, after a few that only warm up and have no number */
const spaced = async ({ count, millis }: { readonly count: number; readonly millis: number }) => {
  const create = single(await opened())
  for (let id = -5; id < count; id++) {
    await create({ id, at: now() })
    await sleep(millis * (0.5 + Math.random()))
  }
}

/** creates `count` runs at a steady rate, a bulk every ten milliseconds; the rate it reached */
const stream = async ({ count, rate }: { readonly count: number; readonly rate: number }) => {
  const producer = await opened()
  const create = producer.bulk ?? ((payloads: ReadonlyArray<Payload>) => Promise.all(payloads.map(single(producer))).then(() => {}))
  const underway = new Set<Promise<void>>()
  const start = now()
  let id = 0
  while (id < count) {
    const due = Math.min(count, Math.floor(((now() - start) / 1000) * rate)) - id
    if (due > 0 && underway.size < 8) {
      const at = now()
      const creating = create(Array.from({ length: due }, () => ({ id: id++, at }))).finally(() => underway.delete(creating))
      underway.add(creating)
    }
    await sleep(10)
  }
  await Promise.all(underway)
  return (1000 * count) / (now() - start)
}

/** What a worker has seen. */
export interface Report {
  readonly executed: number
  /** how often each run was executed, by number */
  readonly times: Uint8Array
  readonly firstAt: number | null
  /** creation to first execution in milliseconds, by number; not a number for runs this process did not execute */
  readonly latencies: Float64Array
  /** CPU microseconds of this process since `work`, and since the first run */
  readonly cpu: number
  readonly cpuAfterStart: number
  readonly peakRss: number
  readonly rss: number
  /** the longest pause between two ticks of ten milliseconds since the first run */
  readonly gap: number
}

const seen = {
  executed: 0,
  times: new Uint8Array(0),
  // by number of the run
  latencies: new Float64Array(0),
  firstAt: null as number | null,
  cpuAtStart: process.cpuUsage(),
  cpuAtFirst: process.cpuUsage(),
  lastTick: now(),
  gap: 0
}

const report = (): Report => {
  const cpu = (since: NodeJS.CpuUsage) => {
    const { system, user } = process.cpuUsage(since)
    return system + user
  }
  return {
    executed: seen.executed,
    times: seen.times,
    firstAt: seen.firstAt,
    latencies: seen.latencies,
    cpu: cpu(seen.cpuAtStart),
    cpuAfterStart: seen.firstAt === null ? 0 : cpu(seen.cpuAtFirst),
    peakRss: process.resourceUsage().maxRSS * 1024,
    rss: process.memoryUsage.rss(),
    gap: Math.max(seen.gap, now() - seen.lastTick)
  }
}

interface Work {
  readonly concurrency: number
  /** how many runs there are in all; none has a higher number */
  readonly count: number
  /** how long a handler takes */
  readonly millis?: number
  /** whether to tick: an idle worker's CPU is its own only if it does not */
  readonly ticking?: boolean
}

const work = async ({ concurrency, count, millis = 0, ticking = true }: Work) => {
  seen.times = new Uint8Array(count)
  seen.latencies = new Float64Array(count).fill(Number.NaN)
  seen.cpuAtStart = process.cpuUsage()
  let told = 0
  const tell = () => {
    if (seen.executed === told) return
    told = seen.executed
    process.send?.({ executed: told })
  }
  if (ticking) {
    ticks = setInterval(() => {
      const at = now()
      if (seen.firstAt !== null) seen.gap = Math.max(seen.gap, at - seen.lastTick)
      seen.lastTick = at
      tell()
    }, 10)
  }
  worker = await system.worker(url, {
    concurrency,
    run: ({ at, id }) => {
      if (id < 0) return undefined
      const start = now()
      if (seen.firstAt === null) {
        seen.firstAt = start
        seen.lastTick = start
        seen.cpuAtFirst = process.cpuUsage()
      }
      if (seen.times[id]!++ === 0) seen.latencies[id] = start - at
      seen.executed++
      if (seen.executed === count) tell()
      return millis === 0 ? undefined : sleep(millis)
    }
  })
}

const calls = {
  prepare: () => system.prepare(url),
  open: async () => void (await opened()),
  create,
  bulk,
  fill,
  spaced,
  stream,
  work,
  report: async () => report(),
  stop: async () => {
    // the channel is closed when this has ended
    clearInterval(ticks)
    await worker?.stop()
    await producer?.close()
  }
}
export type Calls = typeof calls

process.on("message", ({ call, id, input }: { readonly id: number; readonly call: keyof Calls; readonly input: never }) => {
  Promise.resolve()
    .then((): Promise<unknown> => calls[call](input))
    .then(
      (output) => process.send?.({ id, output }),
      (error) => process.send?.({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
    )
})
// the harness is gone, or wants no more of it
process.on("disconnect", () => process.exit())
process.send?.({ ready: true })
