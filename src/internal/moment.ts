/** Milliseconds from a table or a user, where every number is possible, as a moment, of which there are fewer. */
import * as DateTime from "effect/DateTime"

/** The last moment that a Date can say, in the year 275760. */
export const lastMoment = 8.64e15

export const momentOf = (millis: number): DateTime.Utc =>
  DateTime.unsafeMake(Number.isFinite(millis) ? Math.min(Math.max(millis, -lastMoment), lastMoment) : 0)
