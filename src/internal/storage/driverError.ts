/** The few things that every driver's error has, found without knowing the driver. */
import type { SqlError } from "@effect/sql/SqlError"
import * as Predicate from "effect/Predicate"

/** The code of a driver's error, or "". */
export const errorCode = (error: SqlError): string =>
  Predicate.hasProperty(error.cause, "code") && error.cause.code !== undefined ? String(error.cause.code) : ""

/** The message of a driver's error, or "". */
export const errorMessage = (error: SqlError): string => (Predicate.hasProperty(error.cause, "message") ? String(error.cause.message) : "")
