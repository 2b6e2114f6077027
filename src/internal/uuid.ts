/** Ids: UUIDs of version 7 (RFC 9562), whose leading milliseconds keep inserts at one end of an index. Never used as an order. */
const bytes = new Uint8Array(16)

const hex = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"))

export const uuidv7 = (wallClockMillis: number): string => {
  globalThis.crypto.getRandomValues(bytes)
  bytes[0] = wallClockMillis / 2 ** 40
  bytes[1] = wallClockMillis / 2 ** 32
  bytes[2] = wallClockMillis / 2 ** 24
  bytes[3] = wallClockMillis / 2 ** 16
  bytes[4] = wallClockMillis / 2 ** 8
  bytes[5] = wallClockMillis
  bytes[6] = (bytes[6]! & 0x0f) | 0x70
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  let text = ""
  for (let i = 0; i < 16; i++) {
    text += hex[bytes[i]!]
    if (i === 3 || i === 5 || i === 7 || i === 9) text += "-"
  }
  return text
}

export const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
