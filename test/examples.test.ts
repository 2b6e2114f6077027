/** Every example is a whole program: it runs, says what it should, and ends by itself. */
import { spawn } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type DatabaseName, urls } from "./support/databases.js"
import { tsx } from "./support/processes.js"

const directory = fileURLToPath(new URL("../examples", import.meta.url))

interface Example {
  readonly file: string
  /** the variable that names its database: it gets an empty one of its own */
  readonly database?: { readonly kind: DatabaseName; readonly variable: string }
  /** Lines that must be there, in this order; others may stand between them. Where there are two lists, nothing orders one by the other. */
  readonly says: ReadonlyArray<ReadonlyArray<RegExp>>
}

const examples: ReadonlyArray<Example> = [
  // the two that take longest first
  {
    file: "cluster.ts",
    says: [[/^one of three processes is killed$/, /^runs that the others took over: [1-9]\d*$/, /^30 of 30 runs succeeded$/]]
  },
  {
    file: "shutdown.ts",
    says: [
      [
        /^SIGTERM: no more claims$/,
        /^1500 ms of work are done$/,
        /^60000 ms of work are interrupted, and begin again elsewhere$/,
        /^stopped within: \d+(\.\d+)?m?s$/
      ]
    ]
  },
  {
    file: "runs.ts",
    says: [
      [
        /^greeted World A: succeeded, successes 1, due after 0 ms$/,
        /^greeted World B: succeeded, successes 1, due after 1000 ms$/,
        /^greeted World C: succeeded, successes 2, /,
        /^greeted World D: succeeded, successes 2, /,
        /^greeted World E: succeeded, successes 1, /,
        /^greeted World F: succeeded, successes 2, /,
        /^greeted World G: succeeded, /,
        /^greeted World H: succeeded, /,
        /^asked 10 times for World E, 1 run$/,
        /^Moody: succeeded at attempt 2$/,
        /^Slow: failed, .*100 milliseconds$/,
        /^started 14, succeeded 12, errors 1, timed out 1$/
      ],
      [/^Hello World A!$/, /^Hello World B!$/],
      [/^Hello World C!$/, /^Hello World D!$/, /^Hello World D!$/],
      [/^Hello World C!$/, /^Hello World C!$/],
      [/^Hello World E!$/],
      [/^Hello World F!$/, /^Hello World F!$/],
      [/^Hello World G!$/],
      [/^Hello World H!$/]
    ]
  },
  {
    file: "policies.ts",
    says: [
      [
        /^Plain: attempt 1 of 2, /,
        /^Plain: attempt 2 of 2, /,
        /^by the instance's policy: failed at attempt 2$/,
        // the backoff: 50 ms, then 100 ms, then 200 ms
        /^Stubborn: attempt 1 of 4, after \d+ ms$/,
        /^Stubborn: attempt 2 of 4, after ([5-9]\d|\d{3,}) ms$/,
        /^Stubborn: attempt 3 of 4, after (1[5-9]\d|[2-9]\d\d|\d{4,}) ms$/,
        /^Stubborn: attempt 4 of 4, after (3[5-9]\d|[4-9]\d\d|\d{4,}) ms$/,
        /^by the job's policy: failed at attempt 4$/,
        /^Stubborn: attempt 1 of 1, /,
        /^by the run's policy: failed at attempt 1$/,
        /^Mixed: succeeded at attempt 3, errors 1, timeouts 1$/
      ]
    ]
  },
  {
    file: "cancellation.ts",
    says: [
      [/^later.zip: cancelled$/, /^temporary file made$/, /^now.zip given up$/, /^temporary file removed$/, /^now.zip: cancelled$/],
      [/^temporary file made$/, /^now.zip: requested$/, /^now.zip: cancelled$/, /^now.zip again: finished$/]
    ]
  },
  {
    file: "transaction.ts",
    says: [[/^order 1 is confirmed$/, /^order 2: out of stock$/, /^orders: 1; runs: \{"order":1\}$/]]
  },
  {
    file: "producer.ts",
    says: [[/^created 3 runs$/, /^succeeded: small cat.png$/, /^succeeded: small dog.png$/, /^succeeded: small owl.png$/]]
  },
  { file: "sqlite.ts", database: { kind: "sqlite", variable: "DATABASE_FILE" }, says: [[/^2 \+ 3 = 5, succeeded$/]] },
  { file: "postgres.ts", database: { kind: "postgres", variable: "DATABASE_URL" }, says: [[/^2 \+ 3 = 5, succeeded$/]] },
  { file: "mysql.ts", database: { kind: "mysql", variable: "DATABASE_URL" }, says: [[/^2 \+ 3 = 5, succeeded$/]] }
]

/** test/readme.test.ts runs it: the README begins with it, and it takes up to a minute to say anything */
const elsewhere = ["minute.ts"]

interface Ended {
  readonly code: number | null
  readonly output: string
  readonly errors: string
}

/** A process that is killed if nobody waits for its end any longer. */
const run = (file: string, env: { readonly [name: string]: string }) =>
  Effect.async<Ended>((resume) => {
    const child = spawn(process.execPath, [...tsx, join(directory, file)], {
      cwd: directory,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    let errors = ""
    child.stdout.on("data", (data: Buffer) => {
      output += data.toString()
    })
    child.stderr.on("data", (data: Buffer) => {
      errors += data.toString()
    })
    // after its end, and after all it said
    child.once("close", (code) => resume(Effect.succeed({ code, output, errors })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const assertSaid = (output: string, lines: ReadonlyArray<RegExp>) => {
  const said = output.split("\n")
  let from = 0
  for (const line of lines) {
    const at = said.findIndex((text, i) => i >= from && line.test(text))
    assert.isAtLeast(at, from, `no line ${line} after line ${from} of:\n${output}`)
    from = at + 1
  }
}

/** What it makes there it should take away again. */
const emptyDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "jobsd-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

// each is a process that takes a second to start
const twoAtATime = Effect.unsafeMakeSemaphore(2).withPermits(1)

describe.concurrent("the examples", { timeout: 180_000 }, () => {
  it("are all run", () => {
    assert.sameMembers([...examples.map(({ file }) => file), ...elsewhere], readdirSync(directory))
  })

  for (const { database, file, says } of examples) {
    const missing = database === undefined ? "" : urls[database.kind].missing
    it.scopedLive.skipIf(missing !== "")(missing === "" ? `${file} says what it should, and ends` : `${file} (${missing})`, () =>
      Effect.gen(function* () {
        const env = database === undefined ? {} : { [database.variable]: yield* urls[database.kind].make }
        const temporary = yield* emptyDirectory
        const { code, errors, output } = yield* run(file, { ...env, TMPDIR: temporary }).pipe(Effect.timeout("60 seconds"))
        assert.strictEqual(code, 0, `${output}\n${errors}`)
        assert.strictEqual(errors, "")
        for (const lines of says) assertSaid(output, lines)
        // tsx keeps what it has compiled
        const left = readdirSync(temporary).filter((name) => !name.startsWith("tsx-"))
        assert.deepStrictEqual(left, [])
      }).pipe(twoAtATime)
    )
  }
})
