/** Spans, metrics and logs, by the names they are documented with. */
import { assert } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Metric, Option, Tracer } from "effect"
import { Job, JobsdMetrics } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { eventually, makeWorld, reaches } from "./support/world.js"

/** a tracer that keeps its spans; the ids of two differ, if their first ids do */
const recording = (firstId = 1) => {
  const spans: Array<Tracer.Span> = []
  let ids = firstId - 1
  const hex = (length: number) => (++ids).toString(16).padStart(length, "0")
  const tracer = Tracer.make({
    span: (name, parent, context, links, startTime, kind) => {
      const attributes = new Map<string, unknown>()
      const span: Tracer.Span = {
        _tag: "Span",
        name,
        parent,
        context,
        links,
        kind,
        attributes,
        spanId: hex(16),
        traceId: Option.match(parent, { onNone: () => hex(32), onSome: ({ traceId }) => traceId }),
        sampled: true,
        status: { _tag: "Started", startTime },
        attribute: (key, value) => void attributes.set(key, value),
        end: (endTime, exit) => void Object.assign(span, { status: { _tag: "Ended", startTime, endTime, exit } }),
        event: () => {},
        addLinks: () => {}
      }
      spans.push(span)
      return span
    },
    context: (execution) => execution()
  })
  return { spans, tracer }
}

onEveryDatabase("telemetry", (it) => {
  it.scoped("has a span around createRun and its child around each attempt, and none of the loops", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { spans, tracer } = recording()
      const Traced = Job.make("Traced", { retriesOnError: 1, queue: "traced" })
      const live = Traced.toLayer((_, { attempt }) => (attempt === 1 ? Effect.fail("no") : Effect.withSpan(Effect.void, "inside")))
      const jobsd = yield* Effect.withTracer(world.start(live, { jobs: [Traced], queues: { traced: 1 } }), tracer)
      const id = yield* jobsd.createRun(Traced, undefined).pipe(Effect.withTracer(tracer))
      yield* reaches(jobsd, id, "succeeded")
      assert.deepStrictEqual(
        spans.map(({ kind, name }) => [name, kind]),
        [
          ["send Traced", "producer"],
          ["process Traced", "consumer"],
          ["process Traced", "consumer"],
          ["inside", "internal"]
        ]
      )
      const [send, first, second, inside] = spans
      for (const attempt of [first, second]) {
        assert.strictEqual(attempt?.traceId, send?.traceId)
        assert.strictEqual(Option.getOrThrow(attempt!.parent).spanId, send?.spanId)
      }
      const exits = [first, second].map((span) => (span!.status._tag === "Ended" ? span!.status.exit._tag : "Started"))
      assert.deepStrictEqual(exits, ["Failure", "Success"])
      assert.strictEqual(Option.getOrThrow(inside!.parent).spanId, second?.spanId)
      assert.deepInclude(Object.fromEntries(send!.attributes), {
        "messaging.system": "jobsd",
        "messaging.operation.type": "send",
        "messaging.destination.name": "traced",
        "jobsd.job": "Traced"
      })
      assert.deepInclude(Object.fromEntries(second!.attributes), {
        "messaging.operation.type": "process",
        "messaging.message.id": id,
        "jobsd.attempt": 2
      })
    })
  )

  it.scoped("goes on in the process that works on a run, whose tracer has never seen the span of who created it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const Traced = Job.make("Traced")
      const [creating, working] = [recording(0xa00), recording(0xb00)]
      const live = Traced.toLayer(() => Effect.withSpan(Effect.void, "inside"))
      const jobsd = yield* Effect.withTracer((yield* world.apart).start(live, { jobs: [Traced] }), working.tracer)
      const client = yield* Effect.withTracer((yield* world.apart).client(), creating.tracer)
      const id = yield* client.createRun(Traced, undefined).pipe(Effect.withSpan("request"), Effect.withTracer(creating.tracer))
      const unheard = yield* client.createRun(Traced, undefined)
      for (const created of [id, unheard]) yield* reaches(jobsd, created, "succeeded")

      const [request, send, ...others] = creating.spans
      assert.deepStrictEqual([request?.name, send?.name, others], ["request", "send Traced", []])
      const ofRun = (run: string) => working.spans.find(({ attributes }) => attributes.get("messaging.message.id") === run)
      const process = ofRun(id)
      assert.deepInclude(process!, { name: "process Traced", kind: "consumer", traceId: request!.traceId })
      assert.deepInclude(Option.getOrThrow(process!.parent), {
        _tag: "ExternalSpan",
        spanId: send!.spanId,
        traceId: send!.traceId,
        sampled: true
      })
      const inside = working.spans.filter(({ parent }) => Option.getOrNull(parent)?.spanId === process?.spanId)
      assert.deepStrictEqual(
        inside.map(({ name, traceId }) => [name, traceId]),
        [["inside", request?.traceId]]
      )
      // what was created without a span begins a trace of its own
      assert.isTrue(Option.isNone(ofRun(unheard)!.parent))
      assert.notStrictEqual(ofRun(unheard)?.traceId, request?.traceId)
    })
  )

  it.scoped("costs no run when the tracer throws", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const throws = () => {
        throw new Error("no span today")
      }
      const broken = Tracer.make({ span: throws, context: (f) => f() })
      const Untraced = Job.make("Untraced")
      const live = Untraced.toLayer(() => Effect.void)
      const jobsd = yield* Effect.withTracer(world.start(live, { jobs: [Untraced] }), broken)
      const ids = yield* Effect.replicateEffect(jobsd.createRun(Untraced, undefined), 3)
      for (const id of ids) yield* reaches(jobsd, id, "succeeded")
    })
  )

  it.scoped("counts and measures", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      // metrics are global: a name of its own keeps this job apart
      const Measured = Job.make(`Measured ${world.prefix} ${process.pid}`, { retriesOnError: 1 })
      const live = Measured.toLayer((_, { attempt }) => (attempt === 1 ? Effect.fail("no") : Effect.void))
      const jobsd = yield* world.start(live, { jobs: [Measured] })
      yield* reaches(jobsd, yield* jobsd.createRun(Measured, undefined), "succeeded")
      yield* jobsd.stop
      const job = Measured.name
      const of = <In, Out>(metric: Metric.Metric<any, In, Out>, tags: Record<string, string> = {}) =>
        Metric.value(Object.entries({ job, ...tags }).reduce((tagged, [key, value]) => Metric.tagged(tagged, key, value), metric))
      assert.strictEqual((yield* of(JobsdMetrics.sent)).count, 1)
      assert.strictEqual((yield* of(JobsdMetrics.runs, { outcome: "retried" })).count, 1)
      assert.strictEqual((yield* of(JobsdMetrics.runs, { outcome: "succeeded" })).count, 1)
      assert.strictEqual((yield* of(JobsdMetrics.duration)).count, 2)
      const wait = yield* of(JobsdMetrics.wait)
      assert.strictEqual(wait.count, 2)
      assert.isTrue(wait.min >= 0 && wait.max < 5)
    })
  )

  it.scoped("counts the runs that were put back", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Orphan = Job.make("Orphan")
      yield* world.migrate
      const client = yield* world.client()
      yield* Effect.replicateEffect(client.createRun(Orphan, undefined), 2)
      yield* world.orphan
      const before = (yield* Metric.value(JobsdMetrics.rescued)).count
      const jobsd = yield* world.start(
        Orphan.toLayer(() => Effect.void),
        { jobs: [Orphan] }
      )
      yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === 2)
      assert.strictEqual((yield* jobsd.instance).counts.rescued, 2)
      assert.strictEqual((yield* Metric.value(JobsdMetrics.rescued)).count, before + 2)
    })
  )

  it.scoped("shows how many workers are busy, by queue", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const queue = `busy ${world.prefix} ${process.pid}`
      const go = yield* Deferred.make<void>()
      const Busy = Job.make("Busy", { queue })
      const jobsd = yield* world.start(
        Busy.toLayer(() => Deferred.await(go)),
        { jobs: [Busy], queues: { [queue]: 3 } }
      )
      const busy = Effect.map(Metric.value(Metric.tagged(JobsdMetrics.busy, "queue", queue)), ({ value }) => value)
      const ids = yield* Effect.replicateEffect(jobsd.createRun(Busy, undefined), 2)
      yield* eventually(busy, (workers) => workers === 2)
      yield* Effect.replicateEffect(jobsd.createRun(Busy, undefined), 2)
      yield* eventually(busy, (workers) => workers === 3)
      yield* Deferred.succeed(go, undefined)
      for (const id of ids) yield* reaches(jobsd, id, "succeeded")
      yield* eventually(busy, (workers) => workers === 0)
    })
  )

  it.scoped("annotates what a handler's fibers log, also when they are joined or add to it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Forking = Job.make("Forking")
      const jobsd = yield* world.start(
        Forking.toLayer(() =>
          Effect.gen(function* () {
            const child = yield* Effect.fork(Effect.annotateLogs(Effect.log("the child's"), "step", 1))
            yield* Fiber.join(child)
            yield* Effect.log("after it")
            yield* Effect.annotateLogs(Effect.log("more"), "step", 2)
          })
        ),
        { jobs: [Forking] }
      )
      const ids = yield* Effect.replicateEffect(jobsd.createRun(Forking, undefined), 2)
      for (const id of ids) yield* reaches(jobsd, id, "succeeded")
      for (const id of ids) {
        const lines = world.logs.filter(({ annotations }) => annotations.runId === id)
        const mine = { job: "Forking", runId: id, attempt: 1 }
        assert.deepStrictEqual(
          lines.map(({ annotations, message }) => [message, annotations]),
          [
            ["the child's", { ...mine, step: 1 }],
            ["after it", mine],
            ["more", { ...mine, step: 2 }]
          ]
        )
      }
    })
  )

  it.scoped("annotates a handler's logs with its run, and the loops' with their names", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Logging = Job.make("Logging")
      const go = yield* Deferred.make<void>()
      const jobsd = yield* world.start(
        Logging.toLayer(() => Effect.zipRight(Effect.log("at work"), Deferred.await(go))),
        { jobs: [Logging] }
      )
      const id = yield* jobsd.createRun(Logging, undefined)
      yield* reaches(jobsd, id, "running")
      const line = yield* eventually(
        Effect.sync(() => world.logs.find(({ message }) => message === "at work")),
        (line) => line !== undefined
      )
      assert.deepStrictEqual(line?.annotations, { job: "Logging", runId: id, attempt: 1 })
      // each loop that asks this table says that it cannot, and who it is
      yield* world.unsafe("ALTER TABLE @_runs RENAME TO @_away")
      yield* Deferred.succeed(go, undefined)
      const told = {
        poller: "could not claim runs; trying again",
        settler: "could not record outcomes; trying again",
        sweeper: "the sweep failed; trying again"
      }
      const whoSays = (text: string) => world.logs.filter(({ message }) => message.includes(text)).map(({ annotations }) => annotations)
      for (const [fiber, text] of Object.entries(told)) {
        const said = yield* eventually(
          Effect.sync(() => whoSays(text)),
          (said) => said.length > 0
        )
        for (const annotations of said) assert.deepStrictEqual(annotations, { package: "jobsd", fiber })
      }
      yield* world.unsafe("ALTER TABLE @_away RENAME TO @_runs")
      yield* reaches(jobsd, id, "succeeded")
    })
  )

  it.scoped("of a handler's own services stays the handler's", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      class Name extends Context.Tag("test/Name")<Name, string>() {}
      const Greets = Job.make("Greets")
      const live = Greets.toLayer(() => Effect.flatMap(Name, (name) => Effect.log(`hello ${name}`))).pipe(
        Layer.provide(Layer.succeed(Name, "Ada"))
      )
      const jobsd = yield* world.start(live, { jobs: [Greets] })
      yield* reaches(jobsd, yield* jobsd.createRun(Greets, undefined), "succeeded")
      assert.isTrue(world.logs.some(({ message }) => message === "hello Ada"))
    })
  )
})
