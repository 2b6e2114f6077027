/**
 * How one process learns that another has created a run, where the database has a way to tell it. A hint may be late, lost or wrong:
 * polling alone is enough for everything but speed.
 */
import { SqlError } from "@effect/sql/SqlError"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { InstanceId } from "../../Instance.js"
import type { StorageError } from "../../JobsdError.js"
import { aBreath } from "../aBreath.js"
import type { Database } from "./database.js"
import type { Row } from "./session.js"

/** What was heard: a run of this queue is due now, or (null) something may be due soon. */
export type Hint = { readonly queue: string | null }

export interface Hints {
  /** how often to look for due runs where nothing can be heard; null: not more often than anyway */
  readonly look: Interval | null
  /** a hint as the database carries it */
  readonly word: (hint: Hint) => string
  /** tells the others; null: they cannot be told, or will see it */
  readonly announce: ((hint: Hint) => Effect.Effect<void, StorageError>) | null
  /** listens to the others until that fails; null: nothing can be heard */
  readonly listen: ((heard: (hint: Hint) => void) => Effect.Effect<void, StorageError>) | null
}

/** In milliseconds: as a rule, and when nothing has happened for a while. To wake up costs more than what is then done. */
export interface Interval {
  readonly millis: number
  readonly quietMillis: number
}
/** So long is a while, in milliseconds. */
export const quietAfter = 10_000

/** What a dialect can do. */
export type HintSql =
  /**
   * a channel that listeners wait at: `announce` sends :hint to :channel, alone or within a statement that returns the runs it creates. Not in every
   * one, and never in a transaction of somebody's: commits that announce wait for each other.
   */
  | { readonly kind: "channel"; readonly announce: string; readonly within: (insert: string) => string }
  /**
   * a number that changes when others commit, cheap enough to ask for every few milliseconds; `shared`: whether there can be others
   */
  | { readonly kind: "version"; readonly version: string; readonly shared: string; readonly every: Interval }
  | { readonly kind: "none"; readonly look: Interval }

const none: Hints = { word: () => "", look: null, announce: null, listen: null }

export const make = (database: Database, me: () => InstanceId): Hints => {
  const { hint } = database.dialect
  switch (hint.kind) {
    case "none":
      return { ...none, look: hint.look }
    case "version":
      return { ...none, listen: watch(database, hint) }
    case "channel":
      return database.listen === null ? none : { ...none, ...channel(database, database.listen, hint.announce, me) }
  }
}

const watch =
  ({ aside, read, readsFreely }: Database, { every, shared, version }: HintSql & { readonly kind: "version" }): Hints["listen"] =>
  (heard) => {
    const answered = (rows: ReadonlyArray<Row>) => Object.values(rows[0] ?? {})[0]
    const ask = (text: string) => Effect.map(aside("look for changes", text), answered)
    return Effect.gen(function* () {
      if (Number(yield* ask(shared)) === 0) return yield* Effect.never
      // so often that all that `read` does would cost 3 s of CPU a minute
      const look = readsFreely
        ? ask(version)
        : Effect.map(
            read("look for changes", ({ run }) => run(version)),
            answered
          )
      let last = yield* look
      let quiet = 0
      const again = Effect.map(look, (now) => {
        quiet = now === last ? quiet + 1 : 0
        if (quiet === 0) heard({ queue: null })
        last = now
      })
      const pause = Effect.suspend(() => Effect.sleep(quiet * every.millis < quietAfter ? every.millis : every.quietMillis))
      return yield* Effect.forever(Effect.zipRight(pause, again))
    })
  }

/** A listener whose connection has died hears nothing, and is not told: it sends itself a word now and then. */
const pingMillis = 60_000
const patienceMillis = 10_000

const channel = (
  { failed, statement, tables, write }: Database,
  listen: NonNullable<Database["listen"]>,
  announceSql: string,
  me: () => InstanceId
): Pick<Hints, "announce" | "listen" | "word"> => {
  const name = tables.runs
  const announceStatement = statement(announceSql)
  const signed = (word: string) => `${me()} ${word}`
  const word: Hints["word"] = ({ queue }) => signed(queue === null ? "soon" : `due ${queue}`)
  const send = (hint: string) =>
    Effect.asVoid(write("announce a run", (session) => session.rows(announceStatement, { channel: name, hint })))
  return {
    word,
    announce: (hint) => send(word(hint)),
    listen: (heard) =>
      Effect.gen(function* () {
        let heardAt = performance.now()
        const hear = (payload: string) => {
          const [, from, word, queue] = /^(\S+) (\S+)(?: (.+))?$/s.exec(payload) ?? []
          if (from === me()) heardAt = performance.now()
          else if (word === "due" || word === "soon") heard({ queue: queue ?? null })
        }
        // Pulled, not `Stream.runForEach`, which takes twice the operations; and whom it woke goes first.
        const listening = Effect.scoped(
          Effect.flatMap(Stream.toPull(listen(name)), (pull) =>
            Effect.forever(Effect.zipRight(Effect.map(pull, Chunk.forEach(hear)), aBreath))
          )
        ).pipe(Effect.catchAll(Option.match({ onNone: () => Effect.void, onSome: Effect.fail })))
        const checking = Effect.gen(function* () {
          while (true) {
            yield* Effect.sleep(pingMillis)
            const askedAt = performance.now()
            yield* send(signed("ping"))
            yield* Effect.sleep(patienceMillis)
            if (heardAt < askedAt)
              return yield* new SqlError({ message: "nothing is heard any more", cause: new Error("the listener is dead") })
          }
        })
        yield* Effect.raceFirst(listening, checking)
      }).pipe(Effect.mapError((error) => (error instanceof SqlError ? failed("listen for runs", false)(error) : error)))
  }
}

/** As the setting says: nothing is sent, heard or asked for more often without them. */
export const withoutHints: Hints = none

/** Announcements of one queue are this far apart: the first goes at once, and stands for those right behind it. */
export const announceEvery = Duration.millis(5)
