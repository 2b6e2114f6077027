/**
 * Ids: UUIDs of version 7 (RFC 9562), whose leading milliseconds keep inserts at one end of an index. Those of one process rise
 * (section 6.2, method 1), so that what it creates within a millisecond keeps its order; across processes they say nothing.
 */
import { randomFillSync } from "node:crypto"

const bytes = new Uint8Array(16)
// asking the system for ten random bytes costs ten times as much as making an id of them
const random = new Uint8Array(10 * 256)
let used = random.length

let millis = 0
let counter = 0
const largestCounter = 0xfff
/** A clock that is set back by more than this is believed; otherwise the ids go on from where they were. */
const believedAfter = 10_000

const hex = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"))

export const uuidv7 = (wallClockMillis: number): string => {
  if (used === random.length) {
    randomFillSync(random)
    used = 0
  }
  bytes.set(random.subarray(used, used + 10), 6)
  used += 10
  if (wallClockMillis > millis || wallClockMillis < millis - believedAfter) {
    millis = wallClockMillis
    // its upper half stays free, to be counted into
    counter = ((bytes[6]! & 0x07) << 8) | bytes[7]!
  } else if (++counter > largestCounter) {
    millis++
    counter = 0
  }
  bytes[0] = millis / 2 ** 40
  bytes[1] = millis / 2 ** 32
  bytes[2] = millis / 2 ** 24
  bytes[3] = millis / 2 ** 16
  bytes[4] = millis / 2 ** 8
  bytes[5] = millis
  bytes[6] = 0x70 | (counter >> 8)
  bytes[7] = counter
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  let text = ""
  for (let i = 0; i < 16; i++) {
    text += hex[bytes[i]!]
    if (i === 3 || i === 5 || i === 7 || i === 9) text += "-"
  }
  return text
}

/** An id that shares no randomness with what was drawn before: a process may be a copy of another one's memory. */
export const freshUuidv7 = (wallClockMillis: number): string => {
  used = random.length
  return uuidv7(wallClockMillis)
}

export const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
