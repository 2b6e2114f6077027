/** The Effect of one attempt: decode -> handler -> encode. What can be done synchronously, once per job, or not at all, is. */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import type * as Runtime from "effect/Runtime"
import type * as Tracer from "effect/Tracer"
import type { Job } from "../../Job.js"
import type { RunInfo } from "../../Run.js"
import { describeParseError } from "../failureText.js"
import { parse } from "../json.js"

/** A job with its handler and everything the handler uses. */
export interface HandledJob {
  readonly job: Job.Any
  readonly handle: Job.HandlerService["handle"]
  readonly context: Context.Context<never>
  readonly runtime: Runtime.Runtime<never>
  /** what receives spans, or null */
  readonly tracer: Tracer.Tracer | null
}

/** The payload does not fit the job's schema, here and now: a deploy may still catch up. */
export class DecodeFailure {
  constructor(readonly issue: string) {}
}

/** The work was done, but its result cannot be stored. */
export class EncodeFailure {
  constructor(readonly issue: string) {}
}

/** The encoded result, or null; everything else that can go wrong in a handler goes wrong as it does there. */
export type Attempt = (payload: string, info: (payload: unknown) => RunInfo) => Effect.Effect<string | null, unknown>

const undecodable = (error: ParseResult.ParseIssue) => new DecodeFailure(describeParseError(new ParseResult.ParseError({ issue: error })))
const unencodable = (error: ParseResult.ParseIssue) => new EncodeFailure(describeParseError(new ParseResult.ParseError({ issue: error })))

/** Compiles what running a job takes: the parsers are made once, and a schema without effects is not run as one. */
export const compile = ({ handle, job }: HandledJob, resultLimit: number): Attempt => {
  const decode = ParseResult.decodeUnknown(job.payloadSchema)
  const encode = job.successSchema === undefined ? null : ParseResult.encodeUnknown(job.successSchema)

  const stored = (result: unknown): Effect.Effect<string, EncodeFailure> => {
    const text = JSON.stringify(result) ?? "null"
    const bytes = Buffer.byteLength(text)
    return bytes > resultLimit ? Effect.fail(new EncodeFailure(`it has ${bytes} bytes, the limit is ${resultLimit}`)) : Effect.succeed(text)
  }
  const worked = (payload: unknown, info: (payload: unknown) => RunInfo): Effect.Effect<unknown, unknown> =>
    handle(payload, info(payload)) as Effect.Effect<unknown, unknown>
  const attempted = (payload: unknown, info: (payload: unknown) => RunInfo): Effect.Effect<string | null, unknown> =>
    encode === null
      ? Effect.as(worked(payload, info), null)
      : Effect.flatMap(worked(payload, info), (result) => Effect.flatMap(Effect.mapError(encode(result), unencodable), stored))

  return (text, info) =>
    Effect.suspend(() => {
      let json: unknown
      try {
        json = text === "" ? undefined : parse(text)
      } catch {
        return Effect.fail(new DecodeFailure("it is not JSON"))
      }
      const decoded = decode(json)
      return Either.isEither(decoded) && Either.isRight(decoded)
        ? attempted(decoded.right, info)
        : Effect.flatMap(Effect.mapError(decoded, undecodable), (payload) => attempted(payload, info))
    })
}
