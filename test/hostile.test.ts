/**
 * Content from anywhere: payloads, results, errors, names and rows that somebody else wrote. Whatever they hold, they are stored
 * exactly or refused with a typed error, and they are the business of one run, never of a loop, a group or another run.
 */

import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it as plainly } from "@effect/vitest"
import { Cause, DateTime, Effect, Either, Exit, Layer, Metric, Option, Redacted, Schedule, Schema, Tracer } from "effect"
import { Job, JobSchedule, Jobsd, JobsdError, type Run } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { counted, eventually, makeWorld, reaches } from "./support/world.js"

/** gives back what it is given */
const Echo = Job.make("Echo", { payload: Schema.Unknown, success: Schema.Unknown, retriesOnError: 0 })
const EchoLive = Echo.toLayer((payload) => Effect.succeed(payload))

const quickly = Schedule.spaced("10 millis")
const statuses = ["ready", "running", "succeeded", "failed", "cancelled", "parked"]
const MiB = 1024 * 1024

const texts = {
  nothing: "",
  nul: "a\0b\0",
  "lone surrogates": "\uD800 \uDC00\uD800 \uDFFF",
  emoji: "\u{1F600}\u{1F468}\u200D\u{1F469}\u200D\u{1F467}",
  "right to left": "\u202Eשלום\u202C مرحبا",
  "line separators": "a\u2028b\u2029c\r\n\v\f",
  controls: `${Array.from({ length: 32 }, (_, i) => String.fromCharCode(i)).join("")}\u007F\u0080`,
  "non-characters": "\uFEFF\uFFFE\uFFFF\u{10FFFF}",
  combining: "e\u0301 é ａ ﬁ",
  quotes: `'"\`\\ '' "" \\' $1 ? :name {{}} %s %_`,
  injection: `'); DROP TABLE t0_runs; --`
}

onEveryDatabase("a payload of any size", (it, database) => {
  it.scoped("up to payloadLimit is stored exactly, and one byte more is refused before anything is written", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(EchoLive, { jobs: [Echo], payloadLimit: 10 * MiB })
      // two bytes are the quotes of the JSON text
      for (const bytes of [2, 3, 1000, 65_535, 65_536, MiB, 10 * MiB]) {
        const payload = "x".repeat(bytes - 2)
        const state = yield* reaches(jobsd, yield* jobsd.createRun(Echo, payload), "succeeded", "failed")
        assert.isTrue(state.result === payload, `${bytes} bytes: ${state.status} ${state.completedError}`)
      }
      const before = (yield* world.rows("runs")).length
      for (const payload of ["x".repeat(10 * MiB - 1), "é".repeat(5 * MiB)]) {
        const error = yield* Effect.flip(jobsd.createRun(Echo, payload))
        assert.strictEqual(error._tag, "PayloadError")
      }
      assert.lengthOf(yield* world.rows("runs"), before)
    })
  )

  it.scoped("without a payload takes no bytes", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { calls, job, live } = counted("Bare")
      const jobsd = yield* world.start(live, { jobs: [job] })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
      assert.isUndefined(calls[0]?.payload)
      assert.deepInclude((yield* world.rows("runs"))[0], { payload: "", payload_bytes: 0 })
    })
  )

  it.scoped("beyond what the server takes is stored, or refused with a typed error and no row", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(EchoLive, { jobs: [Echo], payloadLimit: 64 * MiB })
      const created = yield* Effect.either(jobsd.createRun(Echo, "x".repeat(17 * MiB), { delay: "1 hour" }))
      yield* reaches(jobsd, yield* jobsd.createRun(Echo, "small"), "succeeded")
      // MariaDB and MySQL: max_allowed_packet, 16 MiB by default; the server closes the connection, which the pool finds out late
      const rows = yield* Effect.retry(Effect.sandbox(world.rows("runs")), { times: 10 })
      if (database === "mysql") assert.instanceOf(Option.getOrNull(Either.getLeft(created)), JobsdError.StorageError)
      assert.lengthOf(rows, database === "mysql" ? 1 : 2)
    })
  )

  it.scoped("cannot block a settlement: a result beyond what the server takes ends its run, and others go on", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Large = Job.make("Large", { payload: { bytes: Schema.Number }, success: Schema.String, retriesOnError: 0 })
      const jobsd = yield* world.start(
        Large.toLayer(({ bytes }) => Effect.succeed("x".repeat(bytes))),
        { jobs: [Large], payloadLimit: 64 * MiB }
      )
      const large = yield* jobsd.createRun(Large, { bytes: 17 * MiB })
      yield* reaches(jobsd, large, "running", "succeeded", "failed")
      yield* reaches(jobsd, yield* jobsd.createRun(Large, { bytes: 10 }), "succeeded")
      yield* reaches(jobsd, large, "succeeded", "failed")
    })
  )

  it.scoped("is measured in bytes, a result like a payload", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Wide = Job.make("Wide", { success: Schema.String })
      const jobsd = yield* world.start(
        Wide.toLayer(() => Effect.succeed("é".repeat(60))),
        { jobs: [Wide], payloadLimit: 100 }
      )
      const state = yield* reaches(jobsd, yield* jobsd.createRun(Wide, undefined), "succeeded", "failed")
      assert.strictEqual(state.status, "failed")
    })
  )

  it.scoped("of any depth is stored, or refused with a typed error", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(EchoLive, { jobs: [Echo] })
      const nested = (depth: number) => {
        let value: unknown = 1
        for (let i = 0; i < depth; i++) value = [value]
        return value
      }
      yield* reaches(jobsd, yield* jobsd.createRun(Echo, nested(1000)), "succeeded")
      for (const payload of [
        nested(200_000),
        10n,
        {
          toJSON: () => {
            throw new Error("no")
          }
        }
      ]) {
        const exit = yield* Effect.exit(jobsd.createRun(Echo, payload))
        assert.isTrue(Exit.isSuccess(exit) || Option.isSome(Cause.failureOption(exit.cause)))
      }
    })
  )
})

onEveryDatabase("a text of any characters", (it) => {
  for (const [name, text] of Object.entries(texts)) {
    it.scoped(`comes back as it was, in payload, result and keys of objects: ${name}`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const jobsd = yield* world.start(EchoLive, { jobs: [Echo] })
        const payload = { text, list: [text], [`key ${text}`]: text }
        const state = yield* reaches(jobsd, yield* jobsd.createRun(Echo, payload), "succeeded", "failed")
        assert.deepStrictEqual(state.result, payload)
      })
    )

    it.scoped(`in an error does not block its settlement: ${name}`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const Fails = Job.make("Fails", { payload: { text: Schema.String }, retriesOnError: 1, backoff: quickly })
        const jobsd = yield* world.start(
          Fails.toLayer(({ text }) => Effect.fail(text)),
          { jobs: [Fails] }
        )
        const state = yield* reaches(jobsd, yield* jobsd.createRun(Fails, { text }), "failed")
        assert.strictEqual(state.completedError, text.replaceAll("\0", "\uFFFD").replace(/\p{Surrogate}/gu, "\uFFFD"))
        assert.strictEqual((yield* world.rows("attempts"))[0]?.error, state.completedError)
      })
    )

    it.scoped(`as a unique name, or as the name of a job or a queue, is kept exactly or refused: ${name}`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const Named = Job.make(text)
        const started = yield* Effect.either(
          world.start(
            Named.toLayer(() => Effect.void),
            { jobs: [Named] }
          )
        )
        if (started._tag === "Left") {
          assert.instanceOf(started.left, JobsdError.SettingsError)
          yield* world.migrate
        } else {
          const jobsd = started.right
          const state = yield* reaches(jobsd, yield* jobsd.createRun(Named, undefined), "succeeded")
          assert.strictEqual(state.job, text)
        }
        const client = yield* world.client()
        const unique = yield* Effect.either(client.createRun(Echo, 1, { unique: text, queue: "elsewhere" }))
        if (unique._tag === "Left") assert.strictEqual(unique.left._tag, "OptionError")
        else {
          assert.strictEqual((yield* client.getRunState(unique.right)).name, text)
          assert.strictEqual(yield* client.createRun(Echo, 1, { unique: text, queue: "elsewhere" }), unique.right)
        }
        const queued = yield* Effect.either(client.createRun(Echo, 1, { queue: text }))
        if (queued._tag === "Left") assert.strictEqual(queued.left._tag, "OptionError")
        else assert.strictEqual((yield* client.getRunState(queued.right)).queue, text)
      })
    )
  }
})

onEveryDatabase("a name", (it) => {
  it.scoped("has no effect on a statement, whatever it is made of", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const names = [
        "it's",
        ",",
        "a,b,,",
        'say "hi"',
        "a`b",
        "a;b",
        "a--b",
        "a/*b*/",
        "100%",
        "_",
        "a\\b",
        "$1",
        "?",
        ":id",
        "@x",
        "\u0024{x}",
        "../x",
        "/etc/passwd",
        "'; DROP TABLE runs; --",
        "NULL",
        "0",
        "x".repeat(128),
        "ä".repeat(128)
      ]
      const jobs = names.map((name) => Job.make(name, { queue: name, success: Schema.String }))
      const live = jobs.map((job) => job.toLayer(() => Effect.succeed(job.name)))
      const jobsd = yield* world.start(Layer.mergeAll(live[0]!, ...live.slice(1)) as Layer.Layer<any>, {
        jobs,
        queues: Object.fromEntries(names.map((name) => [name, 1]))
      })
      for (const job of jobs) {
        const id = yield* jobsd.createRun(job, undefined, { unique: job.name })
        assert.deepInclude(yield* reaches(jobsd, id, "succeeded"), { job: job.name, queue: job.name, name: job.name, result: job.name })
      }
      assert.lengthOf(yield* world.rows("runs"), names.length)
      assert.sameMembers([...(yield* jobsd.instance).jobs], names)
    })
  )

  it.scoped("of more than 128 characters is refused where it is said", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const long = "x".repeat(129)
      const Long = Job.make(long)
      const error = yield* Effect.flip(
        world.start(
          Long.toLayer(() => Effect.void),
          { jobs: [Long] }
        )
      )
      assert.instanceOf(error, JobsdError.SettingsError)
      yield* world.migrate
      const jobsd = yield* world.client()
      for (const create of [
        jobsd.createRun(Long, undefined),
        jobsd.createRun(Echo, 1, { queue: long }),
        jobsd.createRun(Echo, 1, { schedule: JobSchedule.every(long, "1 hour") })
      ]) {
        assert.strictEqual((yield* Effect.flip(create))._tag, "OptionError")
      }
      assert.lengthOf(yield* world.rows("runs"), 0)
    })
  )

  it.scoped("that differs in case, accents or blanks at its end is another unique key", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const jobsd = yield* world.client()
      const keys = ["abc", "ABC", "abc ", "äbc", "abc\t", "ａbc", "a\u0308bc", "__proto__", "constructor"]
      const ids = yield* Effect.forEach(keys, (unique) => jobsd.createRun(Echo, 1, { unique }))
      assert.strictEqual(new Set(ids).size, keys.length)
      for (const [i, unique] of keys.entries()) assert.strictEqual(yield* jobsd.createRun(Echo, 1, { unique }), ids[i])
    })
  )

  it.scoped("that every object has is an ordinary name, or one that nobody knows", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "../x"]
      yield* world.migrate
      const client = yield* world.client()
      const waiting = yield* Effect.forEach(names, (name) => client.createRun(Job.make(name), undefined))
      const { job, live } = counted("Known")
      const ignorant = yield* world.start(live, { jobs: [job] })
      yield* reaches(ignorant, yield* ignorant.createRun(job, undefined), "succeeded")
      for (const id of waiting) assert.strictEqual((yield* ignorant.getRunState(id)).status, "ready")
      const jobs = names.map((name) => Job.make(name))
      const handlers = jobs.map((job) => job.toLayer(() => Effect.void))
      const knowing = yield* world.start(Layer.mergeAll(handlers[0]!, ...handlers.slice(1)) as Layer.Layer<any>, {
        jobs,
        queues: JSON.parse(`{"__proto__":1,"constructor":1}`)
      })
      for (const id of waiting) yield* reaches(knowing, id, "succeeded")
      for (const queue of ["__proto__", "constructor"]) {
        yield* reaches(knowing, yield* knowing.createRun(jobs[0]!, undefined, { queue }), "succeeded")
      }
    })
  )

  it.scoped("of a job that nobody knows waits, parked after a while, and runs when an instance that knows it appears", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const later = counted("Later")
      const id = yield* client.createRun(later.job, undefined)
      yield* world.unsafe("UPDATE @_runs SET run_at = run_at - 120000")
      const { job, live } = counted("Known")
      const ignorant = yield* world.start(live, { jobs: [job] })
      yield* reaches(ignorant, id, "parked")
      yield* reaches(ignorant, yield* ignorant.createRun(job, undefined), "succeeded")
      const knowing = yield* world.start(later.live, { jobs: [later.job] })
      const state = yield* reaches(knowing, id, "succeeded")
      assert.deepInclude(state, { retriesOnErrorCount: 0, crashCount: 0, startedBy: (yield* knowing.instance).id })
    })
  )
})

/** whether a value holds no prototype but those of the language, and nothing that would set one when it is copied */
const isClean = (value: unknown): boolean => {
  if (typeof value !== "object" || value === null) return true
  const prototype = Object.getPrototypeOf(value)
  return (
    (prototype === Object.prototype || prototype === Array.prototype || prototype === null) &&
    !Object.hasOwn(value, "__proto__") &&
    Object.values(value).every(isClean)
  )
}

onEveryDatabase("a payload made to change prototypes", (it) => {
  const poison = `{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"inner":{"__proto__":{"polluted":1},"a":1},"list":[{"__proto__":{"polluted":1}}]}`
  const inner = Schema.Record({ key: Schema.String, value: Schema.Unknown })
  const schemas = {
    Struct: Schema.Struct({ inner, list: Schema.Array(inner) }),
    "Struct that keeps what it does not know": Schema.Struct({ inner }).annotations({ parseOptions: { onExcessProperty: "preserve" } }),
    Record: inner,
    Unknown: Schema.Unknown,
    Object: Schema.Object
  }
  for (const [kind, schema] of Object.entries<Schema.Schema.AnyNoContext>(schemas)) {
    it.scoped(`reaches a handler without them, through ${kind}, and so does a result its reader`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const received: Array<unknown> = []
        const Poisoned = Job.make("Poisoned", { payload: schema, success: Schema.Unknown, retriesOnError: 0 })
        const live = Poisoned.toLayer((payload) => Effect.sync(() => received.push(payload)))
        const jobsd = yield* world.start(live, { jobs: [Poisoned] })
        const id = yield* jobsd.createRun(Poisoned, { inner: {}, list: [] }, { delay: "200 millis" })
        yield* world.unsafe(`UPDATE @_runs SET payload = '${poison}'`)
        const state = yield* reaches(jobsd, id, "succeeded", "failed")
        assert.strictEqual(state.status, "succeeded", state.completedError ?? "")
        assert.isUndefined(({} as { readonly polluted?: unknown }).polluted)
        assert.isTrue(isClean(received[0]), "the payload")
        yield* world.unsafe(`UPDATE @_runs SET result = '${poison}'`)
        const { result } = yield* jobsd.getRunState(id)
        assert.isTrue(isClean(result), "the result")
      })
    )
  }
})

onEveryDatabase("an error of any kind", (it) => {
  const throwing = () => {
    throw new Error("thrown while it was described")
  }
  const circular: Record<string, unknown> = { name: "loop" }
  circular.self = circular
  const errors: { readonly [name: string]: unknown } = {
    undefined: undefined,
    null: null,
    NaN: Number.NaN,
    bigint: 10n,
    symbol: Symbol("s"),
    function: throwing,
    "5 MB": "é".repeat(5_000_000),
    "emoji across the cut": `x${"\u{1F600}".repeat(5000)}`,
    "no prototype": Object.create(null),
    circular,
    "circular without a prototype": Object.assign(Object.create(null), { self: circular }),
    "toJSON that throws": { toJSON: throwing },
    "toJSON and toString that throw": { toJSON: throwing, toString: throwing },
    "message that throws": Object.defineProperty(new Error(), "message", { get: throwing }),
    "message that is no text": Object.assign(new Error(), { message: { toString: throwing } }),
    "_tag that throws": Object.defineProperty({}, "_tag", { get: throwing }),
    "_tag that is no text": { _tag: Object.create(null), self: circular },
    "revoked proxy": (() => {
      const { proxy, revoke } = Proxy.revocable({}, {})
      revoke()
      return proxy
    })()
  }
  const Fails = Job.make("Fails", { payload: { name: Schema.String }, retriesOnError: 0 })

  it.scoped("is described somehow: its run fails, and its worker is free again", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const jobsd = yield* world.start(
        Fails.toLayer(({ name }) => Effect.fail(errors[name])),
        { jobs: [Fails], workers: 1 }
      )
      for (const name of Object.keys(errors)) {
        const id = yield* jobsd.createRun(Fails, { name })
        const state = yield* Effect.catchAllDefect(reaches(jobsd, id, "failed"), () => jobsd.getRunState(id))
        assert.strictEqual(state.status, "failed", name)
        assert.isString(state.completedError, name)
        assert.isAtMost(Buffer.byteLength(state.completedError!), 4 * 8192, name)
      }
    })
  )

  it.scoped("is described somehow when its job's error schema throws", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Text = Schema.transform(Schema.String, Schema.String, { strict: true, decode: (text) => text, encode: throwing })
      const Typed = Job.make("Typed", { error: Text, success: Text, payload: { way: Schema.String }, retriesOnError: 0 })
      const jobsd = yield* world.start(
        Typed.toLayer(({ way }) => (way === "fails" ? Effect.fail("oops") : Effect.succeed("done"))),
        { jobs: [Typed], workers: 1 }
      )
      for (const way of ["fails", "succeeds"]) yield* reaches(jobsd, yield* jobsd.createRun(Typed, { way }), "failed")
    })
  )

  const redactions: { readonly [name: string]: (text: string) => string } = {
    throws: throwing,
    "returns NUL and half a character": () => "\0\uD800",
    "returns no text": () => undefined as never,
    "returns a lot": () => "x".repeat(20_000_000)
  }
  for (const [what, redact] of Object.entries(redactions)) {
    it.scoped(`ends its run when redact ${what}, and is not stored unredacted`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const jobsd = yield* world.start(
          Fails.toLayer(() => Effect.fail("s3cret")),
          { jobs: [Fails], workers: 1, redact }
        )
        for (const name of ["first", "second"]) {
          const state = yield* reaches(jobsd, yield* jobsd.createRun(Fails, { name }), "failed")
          assert.notInclude(state.completedError ?? "", "s3cret")
        }
        assert.notInclude(JSON.stringify(world.logs), "s3cret")
      })
    )
  }
})

onEveryDatabase("a row that somebody else wrote", (it, database) => {
  const Fragile = Job.make("Fragile", { payload: { fail: Schema.Boolean }, retriesOnError: 1, backoff: quickly })
  const FragileLive = Fragile.toLayer(({ fail }) => (fail ? Effect.fail("as asked") : Effect.void))

  // `ends`: what becomes of it; null: anything but a success that did not happen
  const damages: ReadonlyArray<readonly [name: string, set: string, ends: Run.RunStatus | null, on?: typeof database]> = [
    ["a payload that is no JSON", "payload = 'not json'", "failed"],
    ["no payload at all", "payload = ''", "failed"],
    ["a payload of another kind", "payload = '[1,2,3]'", "failed"],
    ["a backoff that is no JSON", "backoff = 'not json'", "failed"],
    ["a backoff that is null", "backoff = 'null'", "failed"],
    ["a backoff without delays", "backoff = '{}'", "failed"],
    ["a backoff of texts", `backoff = '{"delays":["soon"],"ends":false}'`, "failed"],
    ["a backoff without end", `backoff = '{"delays":[1e300],"ends":false}'`, null],
    ["a backoff into the past", `backoff = '{"delays":[-9e18],"ends":false}'`, null],
    ["a counter at its end", "errors = 2147483647", null],
    ["a counter below zero", "errors = -5, max_errors = -3", null],
    ["a timeout of nothing", "timeout_ms = 0", null],
    ["a timeout below zero", "timeout_ms = -1", null],
    ["a timeout beyond all time", "timeout_ms = 9223372036854775807", null],
    ["a due time before all time", "run_at = -9223372036854775807", null],
    ["a time of creation beyond all time", "created_at = 9223372036854775807", null],
    ["a fence at its end", "fence = 9223372036854775806", null],
    ["a state that is none", "state = 42", null],
    ["a state below zero", "state = -1", null],
    ["a priority that is none", "priority = 99", null],
    ["running, but nobody's", "state = 1, owner = NULL, claim_token = NULL", "failed"],
    ["a wish to be cancelled", "cancel_at = 1", "cancelled"],
    ["a trace that is none", "traceparent = '00-x-y-z'", "failed"],
    ["a result that is no JSON", "result = '{'", "failed"],
    ["a schedule that nobody knows", "schedule = 'Nobody'", null],
    ["texts for numbers", "errors = 'many', timeouts = 'some', crashes = 'x'", null, "sqlite"],
    ["a text for its time", "run_at = 'soon', created_at = 'yesterday'", null, "sqlite"],
    ["bytes for its payload", "payload = X'00FF00'", "failed", "sqlite"],
    ["a text for its fence", "fence = 'x'", null, "sqlite"]
  ]
  for (const [name, set, ends, only] of damages) {
    if (only !== undefined && only !== database) continue
    it.scoped(`affects itself only, and can be read without a defect: ${name}`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        yield* world.migrate
        const client = yield* world.client()
        const damaged = yield* client.createRun(Fragile, { fail: true })
        yield* world.unsafe(`UPDATE @_runs SET ${set}`)
        const others = yield* Effect.replicateEffect(client.createRun(Fragile, { fail: false }), 5)
        const failing = yield* client.createRun(Fragile, { fail: true })
        const jobsd = yield* world.start(FragileLive, { jobs: [Fragile], workers: 2, leaseDuration: "3 seconds" })
        for (const id of others) yield* reaches(jobsd, id, "succeeded")
        yield* reaches(jobsd, failing, "failed")
        yield* reaches(jobsd, yield* jobsd.createRun(Fragile, { fail: false }), "succeeded")

        const look = Effect.either(jobsd.getRunState(damaged))
        const seen = yield* ends === null ? look : eventually(look, (seen) => seen._tag === "Right" && seen.right.status === ends)
        if (seen._tag === "Left") assert.instanceOf(seen.left, JobsdError.StorageError)
        else {
          assert.include(statuses, seen.right.status)
          assert.notStrictEqual(seen.right.status, "succeeded")
        }
        // it can be cancelled, or says why not
        const cancelled = yield* Effect.either(jobsd.cancel(damaged)).pipe(Effect.timeout("5 seconds"))
        if (cancelled._tag === "Left") assert.instanceOf(cancelled.left, JobsdError.StorageError)
        yield* jobsd.stop
      })
    )
  }

  it.scoped("in the table of attempts does not keep runs from being settled or rescued", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const blocked = yield* client.createRun(Fragile, { fail: true })
      const orphan = yield* client.createRun(Fragile, { fail: true })
      for (const id of [blocked, orphan]) {
        yield* world.unsafe(`INSERT INTO @_attempts (run_id, fence, attempt, ended_at, outcome) VALUES ('${id}', 1, 1, 1, 'error')`)
      }
      yield* world.unsafe(`UPDATE @_runs SET state = 1, fence = 1 WHERE id = '${orphan}'`)
      const other = yield* client.createRun(Fragile, { fail: false })
      yield* world.unsafe(`UPDATE @_runs SET state = 1 WHERE id = '${other}'`)
      const jobsd = yield* world.start(FragileLive, { jobs: [Fragile], leaseDuration: "3 seconds" })
      yield* reaches(jobsd, other, "succeeded")
      yield* reaches(jobsd, yield* jobsd.createRun(Fragile, { fail: true }), "failed")
      for (const id of [blocked, orphan]) yield* reaches(jobsd, id, "failed")
    })
  )

  it.scoped("in the table of instances stops neither instances nor their housekeeping", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const unknown = yield* client.createRun(Job.make("Unknown"), undefined)
      yield* world.unsafe("UPDATE @_runs SET run_at = run_at - 120000")
      for (const [i, jobs] of ["not json", "{}", "[1,null]", "null", "42"].entries()) {
        yield* world.unsafe(`INSERT INTO @_instances (id, host, pid, state, jobs, schedules, queues, lease_until, started_at, seen_at, counts)
          VALUES ('00000000-0000-7000-8000-00000000000${i}', '', 0, 0, '${jobs}', '${jobs}', 'x', 9000000000000, 0, 0, 'x')`)
      }
      const jobsd = yield* world.start(FragileLive, { jobs: [Fragile] })
      yield* reaches(jobsd, yield* jobsd.createRun(Fragile, { fail: false }), "succeeded")
      yield* reaches(jobsd, unknown, "parked")
    })
  )
})

onEveryDatabase("an option at the end of its range", (it) => {
  const { job, live } = counted("Extreme")
  const extremes: { readonly [name: string]: Jobsd.Jobsd.CreateRunOptions } = {
    "a timeout of 292 million years": { timeout: 2 ** 63 - 1024 },
    "a timeout of 10^300 ms": { timeout: 1e300 },
    "a delay of a million years": { delay: 3.2e16 },
    "a delay of 300 million years": { delay: 9.2e18 },
    "a delay of 10^300 ms": { delay: 1e300 },
    "the last moment and a delay": { runAt: DateTime.unsafeMake(8.64e15), delay: "1 hour" },
    "the first moment": { runAt: DateTime.unsafeMake(-8.64e15) },
    "as many retries as there are": { retriesOnError: 2 ** 31 - 1, retriesOnCrash: 2 ** 31 - 1 }
  }
  for (const [name, options] of Object.entries(extremes)) {
    it.scoped(`is taken or refused, and stops nobody else: ${name}`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const jobsd = yield* world.start(live, { jobs: [job] })
        const created = yield* Effect.either(jobsd.createRun(job, undefined, options))
        if (created._tag === "Right") assert.include(statuses, (yield* jobsd.getRunState(created.right)).status)
        yield* reaches(jobsd, yield* jobsd.createRun(job, undefined), "succeeded")
      })
    )
  }
})

onEveryDatabase("a payload whose schema has changed since", (it) => {
  it.scoped("is an error with the path and without the value, tried again later, and then a failure", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      yield* world.migrate
      const client = yield* world.client()
      const Old = Job.make("Bill", { payload: { customer: Schema.Struct({ vat: Schema.String }) } })
      const New = Job.make("Bill", {
        payload: { customer: Schema.Struct({ vat: Schema.Number }) },
        retriesOnError: 1,
        backoff: Schedule.spaced("400 millis")
      })
      const id = yield* client.createRun(Old, { customer: { vat: "c4nary" } }, { retriesOnError: 1 })
      const jobsd = yield* world.start(
        New.toLayer(() => Effect.die("it must not start")),
        { jobs: [New] }
      )
      const waiting = yield* eventually(jobsd.getRunState(id), (state) => state.retriesOnErrorCount === 1)
      assert.strictEqual(waiting.status, "ready")
      assert.isAbove(waiting.runAt.epochMillis, waiting.createdAt.epochMillis + 300)
      const failed = yield* reaches(jobsd, id, "failed")
      assert.match(failed.completedError ?? "", /payload cannot be decoded: at customer\.vat: expected number/)
      const stored = yield* world.rows("attempts")
      assert.lengthOf(stored, 1)
      assert.notInclude(JSON.stringify([waiting, failed, stored, world.logs]), "c4nary")
    })
  )
})

/** a tracer that keeps its spans */
const recording = () => {
  const spans: Array<{ readonly name: string; readonly attributes: Map<string, unknown> }> = []
  const tracer = Tracer.make({
    span: (name, parent, context, links, startTime, kind) => {
      const attributes = new Map<string, unknown>()
      spans.push({ name, attributes })
      return {
        _tag: "Span",
        name,
        parent,
        context,
        links,
        kind,
        attributes,
        spanId: "0123456789abcdef",
        traceId: "0123456789abcdef0123456789abcdef",
        sampled: true,
        status: { _tag: "Started", startTime },
        attribute: (key, value) => void attributes.set(key, value),
        end: () => {},
        event: (name, _, more) => void attributes.set(`event ${name}`, more),
        addLinks: () => {}
      }
    },
    context: (execution) => execution()
  })
  return { spans, tracer }
}

onEveryDatabase("a secret", (it) => {
  const canary = "c4nary-7f3a9b"
  const withoutCanary = (text: string) => text.replaceAll(canary, "***")

  it.scoped("in a payload or a result is in no log, span or metric; in an error it is nowhere after redaction", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const { spans, tracer } = recording()
      const Secret = Job.make("Secret", {
        payload: { token: Schema.String, way: Schema.Literal("succeed", "fail", "die", "decode", "encode", "crash", "slow") },
        success: Schema.String.pipe(Schema.filter((text) => text !== `${canary} encode`)),
        retriesOnError: 1,
        retriesOnTimeout: 0,
        backoff: quickly
      })
      const live = Secret.toLayer(({ token, way }) =>
        way === "fail"
          ? Effect.fail({ token })
          : way === "die"
            ? Effect.die(new Error(`with ${token}`))
            : way === "slow"
              ? Effect.never
              : Effect.succeed(`${token} ${way}`)
      )
      const jobsd = yield* Effect.withTracer(
        world.start(live, { jobs: [Secret], redact: withoutCanary, timeout: "300 millis", leaseDuration: "3 seconds" }),
        tracer
      )
      const create = (way: Job.Job.Payload<typeof Secret>["way"]) =>
        Effect.withTracer(jobsd.createRun(Secret, { token: canary, way }), tracer)
      const ids = yield* Effect.forEach(["succeed", "fail", "die", "encode", "slow"] as const, create)
      const decode = yield* Effect.withTracer(jobsd.createRun(Secret, { token: canary, way: "decode" }, { delay: "300 millis" }), tracer)
      yield* world.unsafe(`UPDATE @_runs SET payload = '{"token":["${canary}"],"way":"${canary}"}' WHERE id = '${decode}'`)
      const refused = yield* Effect.flip(Effect.withTracer(jobsd.createRun(Secret, { token: canary, way: canary } as never), tracer))
      const states = yield* Effect.forEach([...ids, decode], (id) => reaches(jobsd, id, "succeeded", "failed"))

      const metrics = (yield* Metric.snapshot).map(({ metricKey, metricState }) => [metricKey.name, metricKey.tags, metricState])
      const errors = states.map(({ completedError, completedAt }) => [completedError, completedAt])
      const attempts = yield* world.rows("attempts")
      const instances = yield* world.rows("instances")
      assert.isAtLeast(attempts.length, 3)
      assert.isAtLeast(spans.length, 6)
      const traced = spans.map(({ attributes, name }) => [name, [...attributes]])
      const asText = (value: unknown) => JSON.stringify(value, (_, value) => (typeof value === "bigint" ? String(value) : value))
      for (const [where, what] of Object.entries({
        logs: world.logs,
        traced,
        metrics,
        errors,
        attempts,
        instances,
        refused: String(refused)
      })) {
        assert.notInclude(asText(what), canary, where)
      }
      const rows = yield* world.rows("runs")
      assert.notInclude(asText(rows.map((row) => ({ ...row, payload: "", result: "" }))), canary, "runs")
    })
  )

  it.scoped("in the error of a schedule's rule is redacted where it is logged", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      let asked = 0
      const Leaky = JobSchedule.make("Leaky", (after) => {
        if (asked++ > 0) throw new Error(`no moment for ${canary}`)
        return DateTime.add(after, { millis: 50 })
      })
      const { job, live } = counted("Chain")
      const jobsd = yield* world.start(live, { jobs: [job], schedules: [Leaky], redact: withoutCanary })
      yield* reaches(jobsd, yield* jobsd.createRun(job, undefined, { schedule: Leaky }), "succeeded")
      assert.isTrue(world.logs.some(({ message }) => message.includes("a chain of runs has ended")))
      assert.notInclude(JSON.stringify(world.logs), canary)
    })
  )
})

describe("a secret in the way to the database", () => {
  const password = Redacted.make("c4nary-pw")
  const layers = {
    postgres: PgClient.layer({ host: "127.0.0.1", port: 1, database: "none", username: "nobody", password, connectTimeout: "2 seconds" }),
    mysql: MysqlClient.layer({ host: "127.0.0.1", port: 1, database: "none", username: "nobody", password })
  }
  for (const [name, layer] of Object.entries(layers)) {
    plainly.scoped(`is not in the error of a layer that cannot reach it (${name})`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Layer.build(Jobsd.layer({ jobs: [] }).pipe(Layer.provide(layer))))
        assert.isTrue(Exit.isFailure(exit))
        assert.notInclude(`${exit} ${JSON.stringify(exit)}`, "c4nary-pw")
      })
    )
  }
})
