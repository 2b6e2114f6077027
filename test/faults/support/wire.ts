/** Just enough of two wire protocols: where a statement begins and what it says, and where its answer ends. */

/** A part of what the client sends, to be passed on as a whole; `text` if it makes the server execute something. */
export interface Part {
  readonly data: Buffer
  readonly text: string | null
}

/** One connection, listened to from its beginning. */
export interface Conversation {
  readonly fromClient: (data: Buffer) => ReadonlyArray<Part>
  /** whether the answer to the last statement is complete with this; for MySQL, whether it has begun, and so was carried out */
  readonly fromServer: (data: Buffer) => boolean
}

export const conversationOf = (protocol: "postgres" | "mysql"): Conversation => (protocol === "postgres" ? postgres() : mysql())

/** Cuts a stream of bytes into frames. `length` says how long the frame at its beginning is, or null if that cannot be told yet. */
const framed = (length: (buffer: Buffer) => number | null) => {
  let rest: Buffer = Buffer.alloc(0)
  return (data: Buffer): ReadonlyArray<Buffer> => {
    rest = rest.length === 0 ? data : Buffer.concat([rest, data])
    const frames: Array<Buffer> = []
    for (;;) {
      const size = length(rest)
      if (size === null || rest.length < size) return frames
      frames.push(rest.subarray(0, size))
      rest = rest.subarray(size)
    }
  }
}

const zeroEnded = (buffer: Buffer, from: number) => buffer.toString("utf8", from, buffer.indexOf(0, from))

const postgres = (): Conversation => {
  let begun = false
  // the first message has no type
  const client = framed((buffer) => {
    const header = begun ? 5 : 4
    if (buffer.length < header) return null
    const size = buffer.readInt32BE(header - 4) + header - 4
    if (buffer.length >= size) begun = true
    return size
  })
  const server = framed((buffer) => (buffer.length < 5 ? null : buffer.readInt32BE(1) + 1))
  let first = true
  let batch: Array<Buffer> = []
  let text: string | null = null
  return {
    fromClient: (data) => {
      const parts: Array<Part> = []
      for (const frame of client(data)) {
        const type = first ? "startup" : String.fromCharCode(frame[0]!)
        first = false
        batch.push(frame)
        // Parse: the statement's name, then its text
        if (type === "P") text = zeroEnded(frame, frame.indexOf(0, 5) + 1)
        if (type === "Q") text = zeroEnded(frame, 5)
        // Parse, Bind, Describe, Execute, Close and Flush wait for their Sync
        if ("PBDECH".includes(type)) continue
        parts.push({ data: Buffer.concat(batch), text })
        batch = []
        text = null
      }
      return parts
    },
    fromServer: (data) => server(data).some((frame) => frame[0] === 0x5a) // ReadyForQuery
  }
}

const COM = { query: 0x03, prepare: 0x16, execute: 0x17 }

const mysql = (): Conversation => {
  const length = (buffer: Buffer) => (buffer.length < 4 ? null : buffer.readUIntLE(0, 3) + 4)
  const client = framed(length)
  const server = framed(length)
  const prepared = new Map<number, string>()
  let preparing: string | null = null
  let waiting = false
  return {
    fromClient: (data) =>
      client(data).map((frame): Part => {
        // commands begin a sequence; what belongs to the greeting does not
        const command = frame[3] === 0 ? frame[4] : undefined
        waiting = true
        if (command === COM.prepare) {
          preparing = frame.toString("utf8", 5)
          return { data: frame, text: null }
        }
        preparing = null
        return {
          data: frame,
          text:
            command === COM.query
              ? frame.toString("utf8", 5)
              : command === COM.execute
                ? (prepared.get(frame.readUInt32LE(5)) ?? null)
                : null
        }
      }),
    fromServer: (data) => {
      const [frame] = server(data)
      if (frame === undefined || !waiting) return false
      waiting = false
      if (preparing !== null && frame[4] === 0) prepared.set(frame.readUInt32LE(5), preparing)
      preparing = null
      return true
    }
  }
}
