/** Milliseconds from a table or a user, where every number is possible, as a moment, of which there are fewer. */
import * as DateTime from "effect/DateTime"
import { lastMoment } from "./lifecycle.js"

export const momentOf = (millis: number): DateTime.Utc =>
  DateTime.unsafeMake(Number.isFinite(millis) ? Math.min(Math.max(millis, -lastMoment), lastMoment) : 0)
