/** What a handler may be, and what may go wrong in one: always this attempt's business, never a loop's. */
import { assert } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Redacted, Schema } from "effect"
import { Job, Jobsd } from "jobsd"
import { onEveryDatabase } from "./support/databases.js"
import { makeWorld, reaches } from "./support/world.js"

class SmtpError extends Schema.TaggedError<SmtpError>()("SmtpError", { code: Schema.Number }) {}

class Mailer extends Context.Tag("test/Mailer")<Mailer, { readonly send: (to: string) => Effect.Effect<void> }>() {}

onEveryDatabase("a job", (it) => {
  it.scoped("gets its payload as its schema decodes it, and stores its result as its schema encodes it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Add = Job.make("Add", {
        payload: Schema.Struct({ at: Schema.Date, numbers: Schema.Array(Schema.BigInt), text: Schema.String }),
        success: Schema.Struct({ sum: Schema.BigInt, year: Schema.Number, text: Schema.String })
      })
      const live = Add.toLayer(({ at, numbers, text }) =>
        Effect.succeed({ sum: numbers.reduce((a, b) => a + b, 0n), year: at.getUTCFullYear(), text })
      )
      const jobsd = yield* world.start(live, { jobs: [Add] })
      const text = "naïve \u{1F600} \"quoted\" 'single' back\\slash\nline\t?:name $1 %s"
      const id = yield* jobsd.createRun(Add, { at: new Date("2026-01-01T00:00:00Z"), numbers: [1n, 2n ** 70n], text })
      const state = yield* reaches(jobsd, id, "succeeded", "failed")
      assert.deepStrictEqual(state.result, { sum: String(2n ** 70n + 1n), year: 2026, text })
    })
  )

  it.scoped("is handled by what an Effect builds, with services of its own", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const sent: Array<string> = []
      const Mail = Job.make("Mail", { payload: { to: Schema.String } })
      const live = Mail.toLayer(Effect.map(Mailer, (mailer) => Mail.of(({ to }) => mailer.send(to)))).pipe(
        Layer.provide(Layer.succeed(Mailer, { send: (to) => Effect.sync(() => void sent.push(to)) }))
      )
      const jobsd = yield* world.start(live, { jobs: [Mail] })
      yield* reaches(jobsd, yield* jobsd.createRun(Mail, { to: "ada" }), "succeeded")
      assert.deepStrictEqual(sent, ["ada"])
    })
  )

  it.scoped("has a scope for each attempt, which closes with it", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const events: Array<string> = []
      const Open = Job.make("Open", { retriesOnError: 1 })
      const live = Open.toLayer((_, { attempt }) =>
        Effect.gen(function* () {
          yield* Effect.acquireRelease(
            Effect.sync(() => events.push(`open ${attempt}`)),
            () => Effect.sync(() => events.push(`close ${attempt}`))
          )
          if (attempt === 1) yield* Effect.fail("no")
        })
      )
      const jobsd = yield* world.start(live, { jobs: [Open] })
      yield* reaches(jobsd, yield* jobsd.createRun(Open, undefined), "succeeded")
      assert.deepStrictEqual(events, ["open 1", "close 1", "open 2", "close 2"])
    })
  )

  it.scoped("may create runs of other jobs, outside of any transaction", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Child = Job.make("Child")
      const done = yield* Deferred.make<void>()
      const Parent = Job.make("Parent", { success: Schema.String })
      const live = Layer.merge(
        Parent.toLayer(() => Jobsd.createRun(Child)),
        Child.toLayer(() => Deferred.succeed(done, undefined))
      )
      const jobsd = yield* world.start(live, { jobs: [Parent, Child] })
      const { id: me } = yield* jobsd.instance
      const parent = yield* reaches(jobsd, yield* jobsd.createRun(Parent, undefined), "succeeded")
      yield* Deferred.await(done)
      const child = yield* jobsd.getRunState(parent.result as never)
      assert.deepInclude(child, { job: "Child", createdBy: me })
    })
  )

  it.scoped("fails with its error as data if it has a schema for it, as text otherwise", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Typed = Job.make("Typed", { error: SmtpError, retriesOnError: 0 })
      const Untyped = Job.make("Untyped", { retriesOnError: 0 })
      const live = Layer.merge(
        Typed.toLayer(() => new SmtpError({ code: 550 })),
        Untyped.toLayer(() => Effect.fail(new Error("no such host")))
      )
      const jobsd = yield* world.start(live, { jobs: [Typed, Untyped] })
      const typed = yield* reaches(jobsd, yield* jobsd.createRun(Typed, undefined), "failed")
      assert.deepStrictEqual(JSON.parse(typed.completedError ?? ""), { _tag: "SmtpError", code: 550 })
      const untyped = yield* reaches(jobsd, yield* jobsd.createRun(Untyped, undefined), "failed")
      assert.strictEqual(untyped.completedError, "Error: no such host")
    })
  )

  it.scoped("that dies, rejects, throws or interrupts itself has made an error, and the instance goes on", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const ways = {
        dies: Effect.die(new Error("defect")),
        rejects: Effect.promise(() => Promise.reject(new Error("rejected"))),
        interrupts: Effect.interrupt,
        throws: Effect.suspend((): Effect.Effect<void> => {
          throw new Error("thrown")
        })
      }
      const Wrong = Job.make("Wrong", {
        payload: { way: Schema.Literal("dies", "rejects", "interrupts", "throws", "sync") },
        retriesOnError: 0
      })
      const live = Wrong.toLayer(({ way }) => {
        if (way === "sync") throw new Error("thrown at once")
        return ways[way]
      })
      const jobsd = yield* world.start(live, { jobs: [Wrong], workers: 1 })
      const errors: Record<string, string | null> = {}
      for (const way of ["dies", "rejects", "interrupts", "throws", "sync"] as const) {
        const state = yield* reaches(jobsd, yield* jobsd.createRun(Wrong, { way }), "failed")
        errors[way] = state.completedError
      }
      assert.deepStrictEqual(errors, {
        dies: "Error: defect",
        rejects: "Error: rejected",
        interrupts: "The handler interrupted itself",
        throws: "Error: thrown",
        sync: "Error: thrown at once"
      })
      assert.strictEqual((yield* jobsd.instance).counts.errors, 5)
    })
  )

  it.scoped("whose stored payload does not fit its schema fails without its value in any text", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Secret = Job.make("Secret", {
        payload: { user: Schema.Struct({ password: Schema.Redacted(Schema.String.pipe(Schema.minLength(4))) }) },
        retriesOnError: 0
      })
      const jobsd = yield* world.start(
        Secret.toLayer(() => Effect.void),
        { jobs: [Secret] }
      )
      const id = yield* jobsd.createRun(Secret, { user: { password: Redacted.make("hunter2") } }, { delay: "300 millis" })
      yield* world.unsafe(`UPDATE @_runs SET payload = '{"user":{"password":"xyz"}}'`)
      const state = yield* reaches(jobsd, id, "failed")
      assert.match(state.completedError ?? "", /payload cannot be decoded: at user\.password: expected .*minLength\(4\)/)
      // not a text that an id can have in it
      assert.notInclude(JSON.stringify([state, world.logs]), "xyz")
    })
  )

  it.scoped("whose result does not fit its schema fails without another attempt: the work was done", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Big = Job.make("Big", { success: Schema.String.pipe(Schema.maxLength(3)) })
      const jobsd = yield* world.start(
        Big.toLayer(() => Effect.succeed("too long")),
        { jobs: [Big] }
      )
      const state = yield* reaches(jobsd, yield* jobsd.createRun(Big, undefined), "failed")
      assert.strictEqual(state.attempt, 1)
      assert.match(state.completedError ?? "", /result cannot be stored: expected .*maxLength\(3\)/)
    })
  )

  it.scoped("can have error texts that no database likes, and they are stored after redaction", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld
      const Odd = Job.make("Odd", { retriesOnError: 0 })
      const live = Odd.toLayer(() => Effect.fail(`nul \0 half \uD800 token=s3cret ${"x".repeat(20_000)}`))
      const jobsd = yield* world.start(live, { jobs: [Odd], redact: (text) => text.replace(/token=\S+/, "token=***") })
      const state = yield* reaches(jobsd, yield* jobsd.createRun(Odd, undefined), "failed")
      assert.match(state.completedError ?? "", /^nul \uFFFD half \uFFFD token=\*\*\* x+$/)
      assert.isAtMost(state.completedError?.length ?? 0, 8192)
    })
  )
})
