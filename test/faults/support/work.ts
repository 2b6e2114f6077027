/** The job that the fault tests share with their processes: its payload says what the handler does. */
import { Schedule, Schema } from "effect"
import { Job, JobSchedule } from "jobsd"

export const Deed = Schema.Literal(
  "succeed", // after `millis`
  "fail", // the first `times` attempts, then succeed
  "fail always",
  "never end",
  "hang once", // the first attempt never ends, the next one after `millis`
  "busy", // keeps the event loop for `millis`, the first `times` attempts
  "abort", // process.abort()
  "exit", // process.exit(0)
  "throw outside", // an exception that nobody catches
  "hoard", // memory without end
  "sql" // a transaction, and more statements than the pool has connections
)

export const Act = Job.make("Act", {
  payload: Schema.Struct({
    do: Deed,
    millis: Schema.optional(Schema.Number),
    times: Schema.optional(Schema.Number),
    /** whatever it does, it does it to its end */
    stubborn: Schema.optional(Schema.Boolean)
  }),
  retriesOnError: 3,
  backoff: Schedule.spaced("100 millis")
})

export type Payload = typeof Act.payloadSchema.Type

export const Often = JobSchedule.every("Often", "200 millis")
