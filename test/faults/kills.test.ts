/** Processes that are killed: nothing is lost, nothing is recorded twice, and others take over in time. */
import { isDeepStrictEqual } from "node:util"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import type { Jobsd, Run } from "jobsd"
import { onEveryDatabase } from "../support/databases.js"
import { eventually } from "../support/world.js"
import { choicesFor, large, limit, percentile, report, scaled } from "./support/campaign.js"
import { defects, noDefects } from "./support/checker.js"
import { untiring } from "./support/load.js"
import { Act, Often, type Payload } from "./support/work.js"
import { atDefaults, type Options } from "./support/workers.js"
import { allEnded, makeAuditedWorld } from "./support/world.js"

const createAll = (
  jobsd: Jobsd.Jobsd.Service,
  payloads: ReadonlyArray<Payload>,
  options: Jobsd.Jobsd.CreateRunOptions = untiring
): Effect.Effect<Array<Run.RunId>> =>
  Effect.orDie(Effect.forEach(payloads, (payload) => jobsd.createRun(Act, payload, options), { concurrency: 4 }))

const times = <A>(count: number, make: (i: number) => A) => Array.from({ length: count }, (_, i) => make(i))

onEveryDatabase("killed processes", (it, database) => {
  it.scoped(
    "lose no run and record none twice, whenever they are killed",
    () =>
      Effect.gen(function* () {
        const kills = scaled(6, 200)
        const choose = choicesFor(`kills on ${database}`)
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        yield* Effect.replicateEffect(world.worker(), 3, { concurrency: 3 })
        const accepted: Array<Run.RunId> = []
        accepted.push(
          yield* Effect.orDie(
            jobsd.createRun(Act, { do: "succeed", millis: 50 }, { ...untiring, schedule: Often, limit: kills * 2, unique: "chain" })
          )
        )
        let caught = 0
        for (let kill = 0; kill < kills; kill++) {
          accepted.push(
            ...(yield* createAll(
              jobsd,
              times(20, () =>
                choose.chance(0.2)
                  ? { do: "fail", times: choose.oneOf([1, 2]), millis: 30 }
                  : { do: "succeed", millis: choose.between(100, 500) }
              )
            ))
          )
          yield* Effect.sleep(choose.between(100, 700))
          const living = yield* eventually(
            Effect.sync(() => world.workers.filter((worker) => !worker.hasExited() && worker.said.some(({ say }) => say === "ready"))),
            (ready) => ready.length > 0
          )
          const victim = choose.oneOf(living)
          if (victim.atWork().length > 0) caught++
          victim.kill("SIGKILL")
          yield* victim.exited
          yield* world.spawn()
        }
        yield* allEnded(world, "10 minutes")
        yield* eventually(
          world.rows("runs", "WHERE schedule IS NOT NULL AND state IN (0, 1, 5, 6)"),
          (live) => live.length === 0,
          "2 minutes"
        )
        const verdict = yield* world.verdict(accepted)
        const killed = world.workers.filter((worker) => worker.hasExited()).length
        report({
          row: 1,
          what: "SIGKILL at random moments",
          database,
          count: killed,
          result: isDeepStrictEqual(defects(verdict), noDefects) ? "passed" : "failed",
          figure: `${verdict.seen.runs} runs, ${verdict.seen.crashes} crashes, lost ${verdict.lost.length}, twice ${verdict.twice.length}`
        })
        assert.isAtLeast(killed, kills)
        assert.isAbove(caught, 0)
        assert.isAbove(verdict.seen.crashes, 0)
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, verdict.seen.runs)
      }),
    limit(60, 1500)
  )

  /** kills so many that have one run each, and times from there to the starts elsewhere */
  const replaced = (options: {
    readonly what: string
    readonly victims: number
    readonly rounds: number
    readonly settings: Partial<Options> & { readonly leaseMillis: number; readonly sweepMillis: number }
    readonly slack: number
  }) =>
    Effect.gen(function* () {
      const { rounds, settings, slack, victims: count, what } = options
      const { leaseMillis, sweepMillis } = settings
      const took: Array<number> = []
      for (let round = 0; round < rounds; round++) {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        // as many survivors as victims: a survivor takes up one run of the dead at a time
        const victims = yield* Effect.replicateEffect(world.worker({ ...settings, workers: 1 }), count, { concurrency: 3 })
        const ids = yield* createAll(
          jobsd,
          // at work until they are killed, however long the others take to start; there, so long that nobody takes up two
          times(count, () => ({ do: "hang once", millis: 2500 + scaled(1000, 1500) * count }))
        )
        yield* eventually(
          Effect.sync(() => victims.flatMap((victim) => victim.atWork())),
          (started) => started.length === ids.length,
          "30 seconds"
        )
        const others = yield* Effect.replicateEffect(world.worker(settings), count, { concurrency: 3 })
        assert.lengthOf(
          victims.flatMap((victim) => victim.atWork()),
          count,
          "all are at work"
        )
        const killedAt = Date.now()
        for (const victim of victims) victim.kill("SIGKILL")
        yield* eventually(
          Effect.sync(() => others.flatMap((other) => other.runs("start"))),
          (started) => started.length === ids.length,
          leaseMillis * 4
        )
        for (const { said } of others) took.push(...said.flatMap((line) => (line.say === "start" ? [line.at - killedAt] : [])))
        yield* allEnded(world)
        assert.deepStrictEqual(defects(yield* world.verdict(ids)), noDefects)
      }
      const p95 = percentile(took, 0.95)
      // lease, sweep and one heartbeat
      const allowed = leaseMillis + sweepMillis + leaseMillis / 5
      report({
        row: 3,
        what,
        database,
        count: took.length,
        result: p95 <= allowed ? "passed" : "failed",
        figure: `p95 ${Math.round(p95)} ms, allowed ${allowed} ms`
      })
      assert.isAtMost(p95, allowed + slack)
    })

  it.scoped(
    "are replaced: what they had starts elsewhere when their lease is over",
    () =>
      replaced({
        what: "from SIGKILL to the start elsewhere, lease 3 s",
        victims: 3,
        rounds: scaled(1, 10),
        settings: { leaseMillis: 3000, sweepMillis: 500 },
        // a handful of kills beside all other tests shows that they are taken up at all, within the next lease: the figure is the large run's
        slack: scaled(3000, 0)
      }),
    limit(30, 300)
  )

  const together = large ? it.scoped : it.scoped.skip
  together(
    "are replaced, twenty at once",
    () =>
      replaced({
        // forty processes starve each other of a shorter lease where there are few cores
        what: "from SIGKILL of 20 to the starts elsewhere, lease 10 s",
        victims: 20,
        rounds: 1,
        settings: { leaseMillis: 10_000, sweepMillis: 1000 },
        slack: 0
      }),
    limit(30, 300)
  )

  together(
    "are replaced, twenty at once, at the default settings",
    () =>
      replaced({
        what: "from SIGKILL of 20 to the starts elsewhere, at the defaults",
        victims: 20,
        rounds: 1,
        settings: atDefaults,
        slack: 0
      }),
    limit(30, 300)
  )

  it.scoped(
    "may be all there are: when some start again they finish everything, and each crash counts once",
    () =>
      Effect.gen(function* () {
        const world = yield* makeAuditedWorld
        const jobsd = yield* world.client()
        const first = yield* Effect.replicateEffect(world.worker(), 3, { concurrency: 3 })
        const ids = yield* createAll(
          jobsd,
          times(30, () => ({ do: "succeed", millis: 400 }))
        )
        yield* eventually(
          Effect.sync(() => first.map((worker) => worker.atWork().length)),
          (held) => held.every((count) => count > 0)
        )
        for (const worker of first) worker.kill("SIGKILL")
        yield* Effect.forEach(first, (worker) => worker.exited)
        const held = yield* world.rows<{ readonly id: string }>("runs", "WHERE state = 1")
        yield* Effect.replicateEffect(world.worker(), 2, { concurrency: 2 })
        yield* allEnded(world)
        const verdict = yield* world.verdict(ids)
        const crashed = yield* world.rows<{ readonly id: string; readonly crashes: number }>("runs", "WHERE crashes > 0")
        const good = isDeepStrictEqual(defects(verdict), noDefects) && verdict.seen.succeeded === ids.length
        report({
          row: 4,
          what: "all processes killed, others started",
          database,
          count: first.length,
          result: good ? "passed" : "failed",
          figure: `${crashed.length} runs crashed once, ${verdict.seen.succeeded} of ${ids.length} succeeded`
        })
        assert.deepStrictEqual(defects(verdict), noDefects)
        assert.strictEqual(verdict.seen.succeeded, ids.length)
        assert.isAbove(held.length, 0)
        assert.sameMembers(
          crashed.map(({ id }) => id),
          held.map(({ id }) => id)
        )
        assert.isTrue(crashed.every(({ crashes }) => Number(crashes) === 1))
      }),
    limit(30, 60)
  )
})
