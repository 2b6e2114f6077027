/** What the compiler refuses, with the words it finds for it; and what it must not. */
import { assert, describe, it } from "@effect/vitest"
import { compile } from "./support/typescript.js"

const prelude = `
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Context, Effect, Layer, Schema } from "effect"
import { Job, Jobsd, JobSchedule, Run } from "jobsd"

class Mailer extends Context.Tag("Mailer")<Mailer, { readonly send: (to: string) => Effect.Effect<void> }>() {}
const Mail = Job.make("Mail", { payload: { to: Schema.String }, success: Schema.Number, error: Schema.String })
const Clean = Job.make("Clean")
const Daily = JobSchedule.cron("Daily", "@daily")
const Sqlite = SqliteClient.layer({ filename: ":memory:" })
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <A, B>(_: Same<A, B>) => {}
`

const accepted = {
  "payloads of the job's type, or none": `
    Jobsd.createRun(Mail, { to: "ada" })
    Jobsd.createRun(Clean)
    Jobsd.createRun(Clean, undefined, { delay: "1 second" })`,
  "a schedule with or without a limit": `
    Jobsd.createRun(Mail, { to: "" }, { schedule: Daily })
    Jobsd.createRun(Mail, { to: "" }, { schedule: Daily, limit: 2, unique: "daily" })`,
  "a layer whose handlers are all given, which needs nothing more": `
    const live = Jobsd.layer({ jobs: [Mail, Clean], schedules: [Daily] }).pipe(
      Layer.provide([Mail.toLayer(({ to }) => Effect.succeed(to.length)), Clean.toLayer(() => Effect.void)]),
      Layer.provide(Sqlite)
    )
    same<Layer.Layer.Context<typeof live>, never>(true)
    same<Layer.Layer.Success<typeof live>, Jobsd.Jobsd>(true)`,
  "what a handler needs in the layer's requirements, but not its Scope and not Jobsd": `
    const mail = Mail.toLayer(({ to }) =>
      Effect.gen(function* () {
        yield* (yield* Mailer).send(to)
        yield* Effect.acquireRelease(Effect.void, () => Effect.void)
        yield* Effect.ignore(Jobsd.createRun(Clean))
        return 1
      })
    )
    same<Layer.Layer.Context<typeof mail>, Mailer>(true)
    const built = Mail.toLayer(Effect.map(Mailer, () => () => Effect.succeed(1)))
    same<Layer.Layer.Context<typeof built>, Mailer>(true)`,
  "the types that a handler sees": `
    Mail.toLayer((payload, run) => {
      same<typeof payload, { readonly to: string }>(true)
      same<typeof run, Run.RunInfo<{ readonly to: string }>>(true)
      return Effect.succeed(1)
    })
    same<Job.Job.Payload<typeof Mail>, { readonly to: string }>(true)
    same<Job.Job.HandlerOf<typeof Mail | typeof Clean>, Job.Handler<"Mail"> | Job.Handler<"Clean">>(true)`,
  "errors by their tags": `
    const caught = Jobsd.createRun(Mail, { to: "" }).pipe(
      Effect.catchTags({
        PayloadError: () => Effect.void,
        OptionError: () => Effect.void,
        ScheduleError: () => Effect.void,
        StorageError: () => Effect.void,
        RetryTransaction: () => Effect.void
      })
    )
    same<Effect.Effect.Error<typeof caught>, never>(true)`
}

const refused: { readonly [what: string]: readonly [code: string, words: RegExp] } = {
  "a forgotten handler, by the name of its job": [
    `
    const live = Jobsd.layer({ jobs: [Mail, Clean] }).pipe(Layer.provide(Clean.toLayer(() => Effect.void)), Layer.provide(Sqlite))
    Effect.runPromise(Effect.scoped(Effect.provide(Effect.never, live)))`,
    /Handler<"Mail">/
  ],
  "a payload of another type": [`Jobsd.createRun(Mail, { to: 42 })`, /number' is not assignable to type 'string'/],
  "a payload with a field too many": [`Jobsd.createRun(Mail, { to: "", cc: "" })`, /'cc' does not exist/],
  "a payload left out": [`Jobsd.createRun(Mail)`, /Expected .*arguments/],
  "a limit without a schedule": [`Jobsd.createRun(Mail, { to: "" }, { limit: 2 })`, /schedule/],
  "an option that does not exist": [`Jobsd.createRun(Mail, { to: "" }, { delayed: 2 })`, /'delayed' does not exist/],
  "a handler that returns something else": [`Mail.toLayer(() => Effect.succeed("one"))`, /string' is not assignable to type 'number'/],
  "a handler that fails with something else": [`Mail.toLayer(() => Effect.fail({ code: 550 }))`, /is not assignable to type 'string'/],
  "a setting that does not exist": [`Jobsd.layer({ jobs: [Clean], worker: 3 })`, /'worker' does not exist/],
  "a payload schema that needs services": [
    `Job.make("X", { payload: Schema.String as Schema.Schema<string, string, Mailer> })`,
    /Mailer' is not assignable to type 'never'/
  ]
}

const words = (what: string) => what.replaceAll(/\W+/g, "-")

describe("the types", { timeout: 120_000 }, () => {
  const all = [...Object.entries(accepted), ...Object.entries(refused).map(([what, [code]]) => [what, code] as const)]
  let found: ReturnType<typeof compile> | undefined
  const errors = (what: string) => {
    found ??= compile(Object.fromEntries(all.map(([what, code]) => [words(what), prelude + code])))
    return found[words(what)]!
  }

  for (const what of Object.keys(accepted)) it(`accept ${what}`, () => assert.deepStrictEqual(errors(what), []))
  for (const [what, [, expected]] of Object.entries(refused)) {
    it(`refuse ${what}`, () => {
      assert.lengthOf(errors(what), 1)
      assert.match(errors(what)[0]!, expected)
    })
  }
})
