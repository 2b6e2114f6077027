/**
 * A program that creates and cancels runs and handles none, told by one JSON argument what to do again and again. It says on its
 * standard output, a JSON object a line, what it is about to create, and what it was told.
 */
import { writeSync } from "node:fs"
import { SqlClient } from "@effect/sql"
import { Effect, Layer } from "effect"
import { Jobsd, type Run } from "jobsd"
import { clientLayer } from "../../support/client.js"
import { type Fault, make as makeFaulty } from "./faultyClient.js"
import { Act, type Payload } from "./work.js"

export interface UserOptions {
  readonly url: string
  readonly prefix: string
  readonly does: "create" | "create many" | "cancel" | "request cancel"
  /** the first of the numbers that its runs are known by: they are in their payloads, as `times` */
  readonly from: number
  readonly faults: ReadonlyArray<Fault>
}

export type UserSaid =
  | { readonly say: "creates"; readonly number: number; readonly count: number }
  | { readonly say: "created"; readonly number: number; readonly ids: ReadonlyArray<Run.RunId> }
  | { readonly say: "cancels"; readonly id: Run.RunId }
  | { readonly say: "cancelled"; readonly id: Run.RunId; readonly answer: string }

const { does, faults, from, prefix, url } = JSON.parse(process.argv[2]!) as UserOptions

// written at once, whatever happens to the process next
const say = (said: UserSaid) => Effect.sync(() => writeSync(1, `${JSON.stringify(said)}\n`))

const untiring = { retriesOnCrash: Number.POSITIVE_INFINITY }
const many = 5

let number = from
const create = (payload: Payload, options: Jobsd.Jobsd.CreateRunsOptions) =>
  Effect.suspend(() => {
    const marked = { ...payload, times: number }
    const count = does === "create many" ? many : 1
    const ids = Effect.flatMap(Jobsd.Jobsd, (jobsd) =>
      does === "create many"
        ? jobsd.createRuns(
            Act,
            Array.from({ length: many }, () => marked),
            options
          )
        : Effect.map(jobsd.createRun(Act, marked, options), (id) => [id])
    )
    return say({ say: "creates", number, count }).pipe(
      Effect.zipRight(ids),
      Effect.tap((ids) => say({ say: "created", number: number++, ids }))
    )
  })

const cancel = (id: Run.RunId) =>
  say({ say: "cancels", id }).pipe(
    Effect.zipRight(Effect.flatMap(Jobsd.Jobsd, (jobsd) => jobsd.cancel(id))),
    Effect.tap((answer) => say({ say: "cancelled", id, answer }))
  )

const isRunning = (id: Run.RunId) =>
  Effect.flatMap(Jobsd.Jobsd, (jobsd) => jobsd.getRunState(id)).pipe(
    Effect.repeat({ until: ({ status }) => status === "running" }),
    Effect.asVoid
  )

const deed = Effect.gen(function* () {
  switch (does) {
    case "create":
    case "create many":
      return yield* create({ do: "succeed" }, untiring)
    case "cancel": {
      const [id] = yield* create({ do: "succeed" }, { ...untiring, delay: "1 hour" })
      return yield* cancel(id!)
    }
    case "request cancel": {
      const [id] = yield* create({ do: "never end" }, untiring)
      yield* isRunning(id!)
      return yield* cancel(id!)
    }
  }
})

const FaultyClient = Layer.effect(
  SqlClient.SqlClient,
  Effect.map(SqlClient.SqlClient, (sql) => {
    const faulty = makeFaulty(sql)
    for (const fault of faults) faulty.arm(fault)
    return faulty.sql
  })
).pipe(Layer.provide(clientLayer(url, 2)))

await Effect.runPromise(
  Effect.forever(deed).pipe(Effect.provide(Layer.provide(Jobsd.layerClient({ tablePrefix: prefix }), FaultyClient)), Effect.scoped)
)
