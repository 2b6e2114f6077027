/** Spans, metrics and logs, by the names they are documented with. */
import { assert } from "@effect/vitest"
import { Context, Effect, Layer, Metric, Option, Tracer } from "effect"
import { Job, JobsdMetrics } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { makeWorld, reaches } from "./support/world.js"

/** a tracer that keeps its spans */
const recording = () => {
  const spans: Array<Tracer.Span> = []
  let ids = 0
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

  it.scoped("annotates a handler's logs with its run, and the loops' with their names", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Logging = Job.make("Logging")
      const jobsd = yield* world.start(
        Logging.toLayer(() => Effect.log("at work")),
        { jobs: [Logging] }
      )
      const id = yield* jobsd.createRun(Logging, undefined)
      yield* reaches(jobsd, id, "succeeded")
      const line = world.logs.find(({ message }) => message === "at work")
      assert.deepStrictEqual(line?.annotations, { job: "Logging", runId: id, attempt: 1 })
      yield* world.unsafe("UPDATE @_instances SET state = 3")
      yield* world.start(Layer.empty, { jobs: [] })
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
