/** Rules for the next moment, without any database. */
import { assert, describe, it } from "@effect/vitest"
import { Cron, DateTime, Either, FastCheck as fc } from "effect"
import { JobSchedule, JobsdError } from "jobsd"

const next = (schedule: JobSchedule.JobSchedule, after: string) => DateTime.formatIso(schedule.next(DateTime.unsafeMake(after)))

const several = (schedule: JobSchedule.JobSchedule, after: string, count: number) => {
  const moments: Array<string> = []
  for (let at = DateTime.unsafeMake(after) as DateTime.Utc, i = 0; i < count; i++) {
    at = schedule.next(at)
    moments.push(DateTime.formatIso(at).slice(0, 16))
  }
  return moments
}

describe("a cron schedule", () => {
  it("finds the next moment strictly after the one given", () => {
    const OnTheMinute = JobSchedule.cron("OnTheMinute", "* * * * *")
    assert.strictEqual(next(OnTheMinute, "2026-01-01T10:20:30.500Z"), "2026-01-01T10:21:00.000Z")
    assert.strictEqual(next(OnTheMinute, "2026-01-01T10:21:00.000Z"), "2026-01-01T10:22:00.000Z")
    assert.strictEqual(next(JobSchedule.cron("Leap", "0 0 29 2 *"), "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00.000Z")
    assert.strictEqual(next(JobSchedule.cron("Seconds", "*/20 * * * * *"), "2026-01-01T00:00:01Z"), "2026-01-01T00:00:20.000Z")
  })

  it.each([
    ["@yearly", "2027-01-01T00:00:00.000Z"],
    ["@annually", "2027-01-01T00:00:00.000Z"],
    ["@monthly", "2026-07-01T00:00:00.000Z"],
    ["@weekly", "2026-06-21T00:00:00.000Z"],
    ["@daily", "2026-06-18T00:00:00.000Z"],
    ["@midnight", "2026-06-18T00:00:00.000Z"],
    ["@Hourly", "2026-06-17T13:00:00.000Z"]
  ])("knows the name %s", (name, expected) => {
    assert.strictEqual(next(JobSchedule.cron("Named", name), "2026-06-17T12:34:56Z"), expected)
  })

  it.each(["", "* * * *", "60 * * * *", "* * * * 8", "every day", "@reboot", "0 0 31 2 *", "0 0 30 2 *"])(
    'refuses "%s" when it is made, with an error that has a type',
    (expression) => {
      assert.throws(() => JobSchedule.cron("Wrong", expression), JobsdError.ScheduleError)
      const either = JobSchedule.cronEither("Wrong", expression)
      assert.isTrue(Either.isLeft(either) && either.left.schedule === "Wrong")
    }
  )

  it("refuses a zone that does not exist", () => {
    assert.throws(() => JobSchedule.cron("Nowhere", "0 9 * * *", "Mars/Olympus"), JobsdError.ScheduleError)
  })

  it("takes an Effect Cron with its own zone", () => {
    const cron = Cron.unsafeParse("0 9 * * *", "Asia/Tokyo")
    assert.strictEqual(next(JobSchedule.cron("Morning", cron), "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00.000Z")
  })

  it("keeps local time when clocks change", () => {
    const Morning = JobSchedule.cron("Morning", "0 9 * * *", "Europe/Berlin")
    assert.deepStrictEqual(several(Morning, "2026-03-27T12:00:00Z", 3), ["2026-03-28T08:00", "2026-03-29T07:00", "2026-03-30T07:00"])
    assert.deepStrictEqual(several(Morning, "2026-10-23T12:00:00Z", 3), ["2026-10-24T07:00", "2026-10-25T08:00", "2026-10-26T08:00"])
  })

  it("runs once on the day whose 2:30 does not exist, and once on the day that has it twice", () => {
    const Night = JobSchedule.cron("Night", "30 2 * * *", "Europe/Berlin")
    const spring = several(Night, "2026-03-27T12:00:00Z", 4)
    assert.deepStrictEqual(
      spring.map((moment) => moment.slice(0, 10)),
      ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    )
    const autumn = several(Night, "2026-10-23T12:00:00Z", 4)
    assert.deepStrictEqual(
      autumn.map((moment) => moment.slice(0, 10)),
      ["2026-10-24", "2026-10-25", "2026-10-26", "2026-10-27"]
    )
  })

  it("always moves forward, in any zone, at any moment", () => {
    const zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
    const expressions = ["* * * * *", "*/20 * * * *", "30 2 * * *", "0 0 1 * *", "15 1-3 * * 0", "@weekly"]
    const moment = fc.integer({ min: Date.UTC(2024, 0), max: Date.UTC(2030, 0) })
    fc.assert(
      fc.property(fc.constantFrom(...zones), fc.constantFrom(...expressions), moment, (zone, expression, after) => {
        const schedule = JobSchedule.cron("Any", expression, zone)
        assert.isAbove(schedule.next(DateTime.unsafeMake(after)).epochMillis, after)
      }),
      { numRuns: 300 }
    )
  })
})

describe("a schedule with a fixed distance", () => {
  it("counts from the moment given", () => {
    assert.strictEqual(next(JobSchedule.every("Often", "90 seconds"), "2026-01-01T00:00:10Z"), "2026-01-01T00:01:40.000Z")
  })

  it.each([0, -5, Number.POSITIVE_INFINITY, "0 seconds"] as const)("refuses a distance of %s", (distance) => {
    assert.throws(() => JobSchedule.every("Wrong", distance), JobsdError.ScheduleError)
  })
})

describe("a schedule of one's own", () => {
  it("has a name and a rule", () => {
    const InAWeek = JobSchedule.make("InAWeek", (after) => DateTime.add(after, { weeks: 1 }))
    assert.isTrue(JobSchedule.isJobSchedule(InAWeek))
    assert.strictEqual(next(InAWeek, "2026-01-01T00:00:00Z"), "2026-01-08T00:00:00.000Z")
  })
})
