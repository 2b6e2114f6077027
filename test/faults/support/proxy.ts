/**
 * A TCP proxy before a database server that reads along: it knows enough of the protocols of PostgreSQL and MySQL to see each statement
 * and the end of its answer, and can lose a connection at exactly that point, or hold traffic back.
 */
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { Effect, type Scope } from "effect"
import { type Kind, kindOf } from "./statements.js"
import { type Conversation, conversationOf } from "./wire.js"

export type Fault =
  /** before: the server never gets the statement; after: it has answered, and the answer does not arrive */
  | { readonly do: "cut"; readonly when: "before" | "after" }
  /** after so many bytes of the exchange that begins with the statement, in either direction */
  | { readonly do: "cut at"; readonly byte: number }
  | { readonly do: "delay"; readonly millis: number }
  /** the client's side is closed for writing; the statement still goes to the server */
  | { readonly do: "half-close" }

export interface Proxy {
  /** the server's URL, through the proxy */
  readonly url: string
  /** a fault at the next statement of a kind, or at the n-th from now */
  readonly arm: (at: Kind, fault: Fault, nth?: number) => void
  /** every statement for which this says a fault gets it */
  readonly onEach: (choose: ((kind: Kind) => Fault | null) | null) => void
  readonly disarm: () => void
  /** lets nothing through, in either direction, and closes nothing */
  readonly blackHole: (on: boolean) => void
  /** its connections stay open and never carry anything again, as if the other end had vanished; new ones are not affected */
  readonly abandon: () => void
  /** closes those at last, as TCP does when it has sent enough probes in vain */
  readonly notice: () => void
  /** how many faults have struck */
  readonly struck: () => number
  /** bytes that the exchange since the last "cut at" has had, up to its cut */
  readonly bytes: () => number
  readonly seen: ReadonlyArray<Kind>
}

export const startProxy = (serverUrl: string): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.gen(function* () {
    const target = new URL(serverUrl)
    const protocol = target.protocol === "postgres:" ? "postgres" : "mysql"
    const armed: Array<{ readonly at: Kind; readonly fault: Fault; left: number }> = []
    const seen: Array<Kind> = []
    const pairs = new Set<{ readonly client: Socket; readonly server: Socket }>()
    let choose: ((kind: Kind) => Fault | null) | null = null
    let struck = 0
    let bytes = 0
    let hole = false

    const faultFor = (kind: Kind): Fault | null => {
      seen.push(kind)
      const due = armed.findIndex((one) => one.at === kind && --one.left === 0)
      const fault = due === -1 ? (choose?.(kind) ?? null) : armed.splice(due, 1)[0]!.fault
      // an exchange that is only counted has no cut
      if (fault !== null && !(fault.do === "cut at" && fault.byte === Number.POSITIVE_INFINITY)) struck++
      return fault
    }

    const join = (client: Socket) => {
      const server = connect(Number(target.port), target.hostname)
      const pair = { client, server }
      pairs.add(pair)
      const cut = () => {
        client.destroy()
        server.destroy()
        pairs.delete(pair)
      }
      /** bytes until the cut, while there is one */
      let left: number | null = null
      const pass = (to: Socket, data: Buffer) => {
        if (to.destroyed) return
        if (left === null) return void to.write(data)
        bytes += Math.min(data.length, left)
        left -= data.length
        if (left > 0) return void to.write(data)
        to.write(data.subarray(0, data.length + left), cut)
      }

      const conversation: Conversation = conversationOf(protocol)
      let dropping = false
      let waiting: Promise<void> | null = null
      const toServer = (data: Buffer, text: string | null) => {
        const fault = text === null ? null : faultFor(kindOf(text))
        switch (fault?.do) {
          case undefined:
            return pass(server, data)
          case "cut":
            if (fault.when === "before") return cut()
            dropping = true
            return pass(server, data)
          case "cut at":
            bytes = 0
            left = fault.byte
            return left === 0 ? cut() : pass(server, data)
          case "half-close":
            client.end()
            return pass(server, data)
          case "delay":
            waiting = new Promise((resolve) =>
              setTimeout(() => {
                waiting = null
                pass(server, data)
                resolve()
              }, fault.millis)
            )
        }
      }

      client.on("data", (data) => {
        for (const part of conversation.fromClient(data)) {
          if (waiting === null) toServer(part.data, part.text)
          else waiting = waiting.then(() => toServer(part.data, part.text))
        }
      })
      server.on("data", (data) => {
        const answered = conversation.fromServer(data)
        if (!dropping) pass(client, data)
        else if (answered) cut()
      })
      for (const socket of [client, server]) {
        socket.setNoDelay(true)
        if (hole) socket.pause()
        socket.on("error", cut)
        socket.on("close", cut)
      }
      client.on("end", () => server.end())
      server.on("end", () => client.end())
    }

    const listener = createServer({ allowHalfOpen: true }, join)
    yield* Effect.async<void>((resume) => void listener.listen(0, "127.0.0.1", () => resume(Effect.void)))
    const abandoned = new Set<{ readonly client: Socket; readonly server: Socket }>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const { client, server } of [...pairs, ...abandoned]) {
          client.destroy()
          server.destroy()
        }
        listener.close()
      })
    )
    const url = new URL(serverUrl)
    url.port = String((listener.address() as AddressInfo).port)
    return {
      url: url.toString(),
      arm: (at, fault, nth = 1) => armed.push({ at, fault, left: nth }),
      onEach: (next) => {
        choose = next
      },
      disarm: () => {
        armed.splice(0)
        choose = null
      },
      blackHole: (on) => {
        hole = on
        for (const { client, server } of pairs) {
          for (const socket of [client, server]) on ? socket.pause() : socket.resume()
        }
      },
      abandon: () => {
        for (const pair of pairs) {
          pair.client.pause()
          pair.server.pause()
          abandoned.add(pair)
        }
        pairs.clear()
      },
      notice: () => {
        for (const { client } of abandoned) client.destroy()
      },
      struck: () => struck,
      bytes: () => bytes,
      seen
    }
  })
