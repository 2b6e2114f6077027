/**
 * A process that only creates runs, told by one JSON argument which ones. It says the id of each on its standard output, a JSON object a
 * line, with the moment by its own clock.
 */
import { DateTime, Effect, Layer } from "effect"
import { Jobsd, type Run } from "jobsd"
import { clientLayer } from "../../support/client.js"
import { Act, Often, type Payload } from "./work.js"

export interface Wanted {
  readonly payload: Payload
  readonly priority?: number
  readonly delayMillis?: number
  /** epoch milliseconds: a moment that is the same whoever says it */
  readonly runAt?: number
  /** on a schedule, once */
  readonly scheduled?: boolean
}

export interface ProducerOptions {
  readonly url: string
  readonly prefix: string
  readonly runs: ReadonlyArray<Wanted>
}

export interface Created {
  readonly say: "created"
  readonly id: Run.RunId
  readonly at: number
}

const { prefix, runs, url } = JSON.parse(process.argv[2]!) as ProducerOptions

const create = ({ delayMillis = 0, payload, priority = 5, runAt, scheduled = false }: Wanted) =>
  Effect.map(
    Jobsd.createRun(Act, payload, {
      priority,
      delay: delayMillis,
      ...(runAt === undefined ? {} : { runAt: DateTime.unsafeMake(runAt) }),
      ...(scheduled ? { schedule: Often, limit: 1 } : {})
    }),
    (id) => {
      const created: Created = { say: "created", id, at: Date.now() }
      console.log(JSON.stringify(created))
    }
  )

await Effect.runPromise(
  Effect.forEach(runs, create).pipe(
    Effect.provide(Layer.provide(Jobsd.layerClient({ tablePrefix: prefix }), clientLayer(url, 1))),
    Effect.scoped
  )
)
