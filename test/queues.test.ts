/** Who runs what, and in which order. */
import { assert } from "@effect/vitest"
import { DateTime, Deferred, Effect, Layer, Schema } from "effect"
import { Job } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

onEveryDatabase("a queue", (it) => {
  it.scoped("runs the lower priority first, and the earlier due among equals", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const order: Array<string> = []
      const Note = Job.make("Note", { payload: { text: Schema.String } })
      const create = (text: string, priority: number | undefined, delay: number) =>
        client.createRun(Note, { text }, { runAt: DateTime.unsafeMake(1000 + delay), ...(priority === undefined ? {} : { priority }) })
      yield* create("default, later", undefined, 3)
      yield* create("default, earlier", undefined, 1)
      yield* create("least urgent", 9, 0)
      yield* create("most urgent", 0, 5)
      yield* create("urgent, later", 4, 4)
      yield* create("urgent, earlier", 4, 2)
      const last = yield* create("last", 9, 6)
      const jobsd = yield* world.start(
        Note.toLayer(({ text }) => Effect.sync(() => order.push(text))),
        { jobs: [Note], workers: 1 }
      )
      yield* reaches(jobsd, last, "succeeded")
      assert.deepStrictEqual(order, [
        "most urgent",
        "urgent, earlier",
        "urgent, later",
        "default, earlier",
        "default, later",
        "least urgent",
        "last"
      ])
    })
  )

  it.scoped("does so when it claims many at a time, beside others that are more urgent and due later, or of nobody", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const order: Array<number> = []
      const Numbered = Job.make("Numbered", { payload: { priority: Schema.Int } })
      const Unknown = Job.make("Unknown")
      yield* client.createRuns(
        Numbered,
        Array.from({ length: 50 }, () => ({ priority: 0 })),
        { priority: 0, delay: "1 hour" }
      )
      yield* client.createRuns(
        Unknown,
        Array.from({ length: 50 }, () => undefined),
        { priority: 1 }
      )
      for (const priority of [8, 3, 5]) {
        yield* client.createRuns(
          Numbered,
          Array.from({ length: 300 }, () => ({ priority })),
          { priority }
        )
      }
      const live = Numbered.toLayer(({ priority }) => Effect.sync(() => order.push(priority)))
      yield* world.start(live, { jobs: [Numbered], workers: 1 })
      yield* eventually(
        Effect.sync(() => order.length),
        (done) => done === 900
      )
      assert.deepStrictEqual(
        order,
        [3, 5, 8].flatMap((priority) => Array.from({ length: 300 }, () => priority))
      )
    })
  )

  it.scoped("keeps its order when the process stands still for longer than what was claimed ahead may wait", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const order: Array<number> = []
      const Numbered = Job.make("Numbered", { payload: { n: Schema.Int } })
      const live = Numbered.toLayer(({ n }) =>
        Effect.sync(() => {
          order.push(n)
          if (n === 400) for (const until = Date.now() + 700; Date.now() < until; );
        })
      )
      const jobsd = yield* world.start(live, { jobs: [Numbered], workers: 1 })
      const ids = yield* jobsd.createRuns(
        Numbered,
        Array.from({ length: 1500 }, (_, n) => ({ n }))
      )
      yield* reaches(jobsd, ids.at(-1)!, "succeeded")
      assert.deepStrictEqual(
        order,
        ids.map((_, n) => n)
      )
    })
  )

  it.scoped("has workers of its own, and one that is not listed is not worked on", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const most = new Map<string, number>()
      const now = new Map<string, number>()
      const Work = Job.make("Work")
      const change = (queue: string, by: number) =>
        Effect.sync(() => {
          now.set(queue, (now.get(queue) ?? 0) + by)
          most.set(queue, Math.max(most.get(queue) ?? 0, now.get(queue) ?? 0))
        })
      const live = Work.toLayer((_, { queue }) =>
        Effect.zipRight(change(queue, 1), Effect.sleep("30 millis")).pipe(Effect.ensuring(change(queue, -1)))
      )
      const jobsd = yield* world.start(live, { jobs: [Work], workers: 3, queues: { mail: 2, "with ünïcode": 1 } })
      const unlisted = yield* jobsd.createRun(Work, undefined, { queue: "unlisted" })
      const ids = yield* Effect.forEach(["default", "mail", "with ünïcode"], (queue) =>
        Effect.replicateEffect(jobsd.createRun(Work, undefined, { queue }), 9)
      )
      yield* Effect.forEach(ids.flat(), (id) => reaches(jobsd, id, "succeeded"))
      assert.deepStrictEqual(Object.fromEntries(most), { default: 3, mail: 2, "with ünïcode": 1 })
      assert.strictEqual((yield* jobsd.getRunState(unlisted)).status, "ready")
      assert.deepStrictEqual((yield* jobsd.instance).queues, { default: 3, mail: 2, "with ünïcode": 1 })
    })
  )

  it.scoped("that is full of slow runs does not hold up another", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const go = yield* Deferred.make<void>()
      const Slow = Job.make("Slow")
      const { job, live } = counted("Quick")
      const jobsd = yield* world.start(
        Layer.merge(
          Slow.toLayer(() => Deferred.await(go)),
          live
        ),
        {
          jobs: [Slow, job],
          workers: 1,
          queues: { quick: 1 }
        }
      )
      const slow = yield* Effect.replicateEffect(jobsd.createRun(Slow, undefined), 3)
      yield* reaches(jobsd, slow[0]!, "running")
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined, { queue: "quick" }), "succeeded")
      yield* Deferred.succeed(go, undefined)
      yield* Effect.forEach(slow, (id) => reaches(jobsd, id, "succeeded"))
    })
  )

  it.scoped("leaves runs of unknown jobs alone, and does not spin on them", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Known")
      const Unknown = Job.make("Unknown")
      const jobsd = yield* world.start(live, { jobs: [job] })
      const unknown = yield* Effect.replicateEffect(jobsd.createRun(Unknown, undefined, { priority: 0 }), 20)
      const known = yield* Effect.replicateEffect(jobsd.createRun(job, undefined), 20)
      yield* Effect.forEach(known, (id) => reaches(jobsd, id, "succeeded"))
      for (const id of unknown) assert.strictEqual((yield* jobsd.getRunState(id)).status, "ready")
    })
  )
})

onEveryDatabase("runs that no living instance knows", (it) => {
  it.scoped("are parked, keep their moment, and come back with an instance that knows them", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { job, live } = counted("Known")
      const { job: Foreign, live: foreignLive } = counted("Foreign")
      yield* world.migrate
      const client = yield* world.client()
      const foreign = yield* client.createRun(Foreign, undefined, { unique: "foreign" })
      const fresh = yield* client.createRun(Foreign, undefined)
      const known = yield* client.createRun(job, undefined, { queue: "elsewhere" })
      yield* world.unsafe(`UPDATE @_runs SET run_at = run_at - 120000 WHERE id <> '${fresh}'`)
      const due = (yield* client.getRunState(foreign)).runAt

      const first = yield* world.start(live, { jobs: [job] })
      const parked = yield* reaches(first, foreign, "parked")
      assert.deepStrictEqual(parked.runAt, due)
      assert.strictEqual((yield* first.getRunState(fresh)).status, "ready", "an instance that is starting has its chance")
      assert.strictEqual((yield* first.getRunState(known)).status, "ready", "somebody knows the job")
      // the key is still held
      assert.strictEqual(yield* client.createRun(Foreign, undefined, { unique: "foreign" }), foreign)

      const second = yield* world.start(foreignLive, { jobs: [Foreign] })
      yield* reaches(second, foreign, "succeeded")
      yield* reaches(second, fresh, "succeeded")
      assert.lengthOf(yield* eventually(world.rows("runs", "WHERE state = 5"), (rows) => rows.length === 0), 0)
    })
  )
})
