/**
 * Loaded before everything else of a process (`node --import`), this gives it a wrong wall clock from its first line on: `?by=` says by
 * how many milliseconds, and each SIGUSR2 makes the clock jump by the next of `&jumps=`. The monotonic clock and the timers stay as
 * they are, as on a machine whose clock is set. It says how far the clock is off as a worker logs, so in the order of what else is said.
 */
import { writeSync } from "node:fs"

const { searchParams } = new URL(import.meta.url)
const jumps = (searchParams.get("jumps") ?? "").split(",").filter(Boolean).map(Number)
let off = Number(searchParams.get("by"))

const TrueDate = Date
const trueNow = Date.now
const now = () => trueNow() + off

TrueDate.now = now
globalThis.Date = new Proxy(TrueDate, {
  apply: () => new TrueDate(now()).toString(),
  construct: (target, args, made) => Reflect.construct(target, args.length === 0 ? [now()] : args, made)
})
TrueDate.prototype.constructor = globalThis.Date

const tell = () => {
  // what a program sees, not what it was told to see; in whole seconds, because time passes between the two looks
  const made = new Date()
  const seen = Math.round((made.getTime() - trueNow()) / 1000) * 1000
  writeSync(1, `${JSON.stringify({ say: "log", level: "CLOCK", text: String(seen) })}\n`)
}

tell()
process.on("SIGUSR2", () => {
  off += jumps.shift() ?? 0
  tell()
})
