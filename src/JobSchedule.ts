/**
 * A job schedule is a name and a pure rule for the next moment. The name travels in the database, the rule stays in the
 * code, so every instance that knows the name must agree on the rule.
 *
 * @since 0.1.0
 */
import * as Cron from "effect/Cron"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { ScheduleError } from "./JobsdError.js"

/**
 * What every schedule carries, to be told from everything else at runtime.
 *
 * @example
 * import { Predicate } from "effect"
 * import { JobSchedule } from "jobsd"
 *
 * const isJobSchedule = (value: unknown) => Predicate.hasProperty(value, JobSchedule.TypeId)
 *
 * console.log(isJobSchedule(JobSchedule.every("Hourly", "1 hour"))) // true
 *
 * @since 0.1.0
 * @category type IDs
 */
export const TypeId: TypeId = "~jobsd/JobSchedule"

/**
 * The type of that.
 *
 * @example
 * import { JobSchedule } from "jobsd"
 *
 * const id: JobSchedule.TypeId = JobSchedule.TypeId
 *
 * console.log(id)
 *
 * @since 0.1.0
 * @category type IDs
 */
export type TypeId = "~jobsd/JobSchedule"

/**
 * A named rule for the next moment.
 *
 * @example
 * import { DateTime } from "effect"
 * import { JobSchedule } from "jobsd"
 *
 * const Hourly = JobSchedule.cron("Hourly", "@hourly")
 * const next = Hourly.next(DateTime.unsafeMake("2026-01-01T10:20:00Z"))
 *
 * console.log(DateTime.formatIso(next)) // 2026-01-01T11:00:00.000Z
 *
 * @since 0.1.0
 * @category models
 */
export interface JobSchedule {
  readonly [TypeId]: TypeId
  readonly name: string
  /** The first moment strictly later than the one given. */
  readonly next: (after: DateTime.Utc) => DateTime.Utc
}

/**
 * Makes a schedule from a rule of your own: a pure function that returns a moment strictly later than the one it is given. A rule
 * that throws or does not move forward ends the chain of runs it was asked for, with a `ScheduleError` in the log.
 *
 * @example
 * import { DateTime } from "effect"
 * import { JobSchedule } from "jobsd"
 *
 * const InAWeek = JobSchedule.make("InAWeek", (after) => DateTime.add(after, { weeks: 1 }))
 *
 * console.log(InAWeek.name)
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (name: string, next: (after: DateTime.Utc) => DateTime.Utc): JobSchedule => ({
  [TypeId]: TypeId,
  name,
  next
})

// the nicknames of crontab(5), without @reboot
const nicknames: { readonly [nickname: string]: string } = {
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
  "@monthly": "0 0 1 * *",
  "@weekly": "0 0 * * 0",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@hourly": "0 * * * *"
}

const parse = (name: string, expression: string, timeZone: string | DateTime.TimeZone): Either.Either<Cron.Cron, ScheduleError> =>
  Either.mapLeft(
    Cron.parse(nicknames[expression.trim().toLowerCase()] ?? expression, timeZone),
    (error) => new ScheduleError({ schedule: name, issue: `"${expression}" is not a cron expression: ${error.message}` })
  )

/** Without a zone, Cron would take that of the machine it is asked on, and instances would not agree. */
const zoned = (name: string, cron: Cron.Cron, timeZone: string | DateTime.TimeZone): Either.Either<Cron.Cron, ScheduleError> =>
  Option.isSome(cron.tz)
    ? Either.right(cron)
    : Either.map(
        Either.fromOption(
          typeof timeZone === "string" ? DateTime.zoneFromString(timeZone) : Option.some(timeZone),
          () => new ScheduleError({ schedule: name, issue: `"${timeZone}" is not a time zone` })
        ),
        (tz) => Cron.make({ ...cron, tz })
      )

/**
 * Cron takes an hour that an autumn change repeats for its first pass. Whoever asks in the second is told moments of the first, which
 * are behind: they are stepped over.
 */
const nextOf = (cron: Cron.Cron, after: number): number => {
  const ask = (from: number) => Cron.next(cron, new Date(from)).getTime()
  let next = ask(after)
  while (next <= after) {
    const later = ask(next)
    if (later <= next) break
    next = later
  }
  return next
}

/**
 * Makes a schedule from a cron expression of five fields (six with seconds first), a name like `@hourly` or `@daily`, or an
 * Effect `Cron`. The time zone is UTC unless one is given; a `Cron` that has one brings its own.
 *
 * Where clocks change: a time that the spring change skips comes an hour later by the local clock, and the hour that the autumn
 * change repeats is used once, so a rule of every 20 minutes pauses for an hour then. Use UTC or `every` where that matters.
 *
 * @throws `ScheduleError` if the expression cannot be read, the zone is unknown, or the date never comes (31 February).
 * `cronEither` returns it instead.
 *
 * @example
 * import { JobSchedule } from "jobsd"
 *
 * const Weekdays = JobSchedule.cron("Weekdays", "30 9 * * 1-5", "Europe/Berlin")
 *
 * console.log(Weekdays.name)
 *
 * @since 0.1.0
 * @category constructors
 */
export const cron = (name: string, expression: string | Cron.Cron, timeZone: string | DateTime.TimeZone = "UTC"): JobSchedule =>
  Either.getOrThrowWith(cronEither(name, expression, timeZone), (error) => error)

/**
 * Like `cron`, with the error as a value: for expressions that come from a configuration.
 *
 * @example
 * import { Effect } from "effect"
 * import { JobSchedule } from "jobsd"
 *
 * const fromConfig = (expression: string) =>
 *   JobSchedule.cronEither("FromConfig", expression).pipe(
 *     Effect.tapError((error) => Effect.logError(error.message))
 *   )
 *
 * console.log(fromConfig)
 *
 * @since 0.1.0
 * @category constructors
 */
export const cronEither = (
  name: string,
  expression: string | Cron.Cron,
  timeZone: string | DateTime.TimeZone = "UTC"
): Either.Either<JobSchedule, ScheduleError> =>
  Either.flatMap(typeof expression === "string" ? parse(name, expression, timeZone) : zoned(name, expression, timeZone), (cron) =>
    Either.try({
      try: () => {
        // Cron finds out only here that a date never comes
        Cron.next(cron, new Date(0))
        return make(name, (after) => DateTime.unsafeMake(nextOf(cron, after.epochMillis)))
      },
      catch: () => new ScheduleError({ schedule: name, issue: "its date never comes" })
    })
  )

/**
 * Makes a schedule with a fixed distance between its moments. They are counted from the due moment of the run before, so nothing
 * drifts.
 *
 * @throws `ScheduleError` if the distance is not at least a millisecond and finite.
 *
 * @example
 * import { JobSchedule } from "jobsd"
 *
 * const EveryTenMinutes = JobSchedule.every("EveryTenMinutes", "10 minutes")
 *
 * console.log(EveryTenMinutes.name)
 *
 * @since 0.1.0
 * @category constructors
 */
export const every = (name: string, distance: Duration.DurationInput): JobSchedule => {
  const millis = Math.round(Duration.toMillis(distance))
  if (!Number.isFinite(millis) || millis < 1) {
    throw new ScheduleError({ schedule: name, issue: "the distance must be at least a millisecond, and finite" })
  }
  return make(name, (after) => DateTime.unsafeMake(after.epochMillis + millis))
}

/**
 * Whether a value is a job schedule.
 *
 * @example
 * import { JobSchedule } from "jobsd"
 *
 * console.log(JobSchedule.isJobSchedule(JobSchedule.every("Minutely", "1 minute")))
 *
 * @since 0.1.0
 * @category guards
 */
export const isJobSchedule = (u: unknown): u is JobSchedule => Predicate.hasProperty(u, TypeId)
