/** Errors as text that every database can store: never a payload's value, no NUL, at most 8,192 UTF-16 units. */
import * as Cause from "effect/Cause"
import * as ParseResult from "effect/ParseResult"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

const limit = 8 * 1024

/** Cut, and free of what PostgreSQL or MySQL would refuse. */
export const storable = (text: string): string =>
  text
    .slice(0, limit)
    .replaceAll("\0", "\uFFFD")
    // halves of surrogate pairs, one of which the cut may have made
    .replace(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, "\uFFFD")

/** The user's redaction, which may throw, and texts that a database can store. */
export const redactedBy =
  (redact: (text: string) => string) =>
  (text: string): string => {
    try {
      return storable(redact(text))
    } catch {
      return "What it failed with cannot be told"
    }
  }

/** Path and expected type of the first problem. A ParseError's own message contains the value, even a redacted one. */
export const describeParseError = (error: ParseResult.ParseError): string => {
  const issue = ParseResult.ArrayFormatter.formatErrorSync(error)[0]
  const path = issue === undefined || issue.path.length === 0 ? "" : `at ${issue.path.map(String).join(".")}: `
  return storable(`${path}expected ${expected(error.issue)}`)
}

const expected = (issue: ParseResult.ParseIssue): string => {
  switch (issue._tag) {
    case "Pointer":
      return expected(issue.issue)
    case "Composite": {
      const inner = Array.isArray(issue.issues) ? issue.issues[0] : issue.issues
      return issue.ast._tag === "Union" ? String(issue.ast) : expected(inner as ParseResult.ParseIssue)
    }
    case "Refinement":
    case "Transformation":
      return issue.kind === "From" ? expected(issue.issue) : String(issue.ast)
    case "Missing":
      return "a value, which is missing"
    case "Unexpected":
      return "no such key"
    case "Type":
    case "Forbidden":
      return String(issue.ast)
  }
}

/** What went wrong in a handler: its typed error (as data, if the job has a schema for it), its defect, or its own interruption. */
export const errorText = (cause: Cause.Cause<unknown>, schema: Schema.Schema<any, any> | undefined): string => {
  const failure = Cause.failureOption(cause)
  if (failure._tag === "Some") {
    if (schema !== undefined) {
      const encoded = Schema.encodeUnknownEither(schema)(failure.value)
      if (encoded._tag === "Right") return storable(JSON.stringify(encoded.right) ?? "undefined")
    }
    return storable(described(failure.value))
  }
  const defect = Cause.dieOption(cause)
  return storable(defect._tag === "Some" ? described(defect.value) : "The handler interrupted itself")
}

const described = (error: unknown): string => {
  if (error instanceof Error) {
    return error.message === "" ? error.name : `${error.name}: ${error.message}`
  }
  if (typeof error === "string") return error
  const tag = Predicate.hasProperty(error, "_tag") ? String(error._tag) : undefined
  try {
    return JSON.stringify(error) ?? tag ?? String(error)
  } catch {
    return tag ?? String(error)
  }
}
