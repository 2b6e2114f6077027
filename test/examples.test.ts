/** Every example is a whole program: it runs, says what it should, and ends by itself. */
import { spawn } from "node:child_process"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Scope } from "effect"
import { urls } from "./support/databases.js"
import { tsx } from "./support/processes.js"

const examples = fileURLToPath(new URL("../examples", import.meta.url))

interface Ended {
  readonly code: number | null
  readonly output: string
  readonly errors: string
}

const run = (file: string, env: { readonly [name: string]: string }) =>
  Effect.async<Ended>((resume) => {
    const child = spawn(process.execPath, [...tsx, join(examples, file)], {
      cwd: examples,
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
    child.once("exit", (code) => resume(Effect.succeed({ code, output, errors })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** lines that must be there, in this order; others may stand between them */
const expected: { readonly [file: string]: ReadonlyArray<RegExp> } = {
  "runs.ts": [
    /^Hello Ada!$/,
    /^Greet succeeded: greeted Ada$/,
    /^Hello Grace!$/,
    /^delayed by \d+ ms$/,
    /^Hello Alan!$/,
    /^Hello Alan!$/,
    /^succeeded 2 times$/,
    /^Hello Edsger!$/,
    /^asked 10 times, 1 run$/,
    /^Moody: attempt 2 did it$/,
    /^Moody succeeded after 1 error$/,
    /^Slow failed: .*100 milliseconds$/,
    /^started 10, succeeded 8, errors 1, timed out 1$/
  ],
  "policies.ts": [
    /^Flaky: attempt 3 of 3$/,
    /^by the job's policy: 3 errors, failed$/,
    /^Flaky: attempt 1 of 1$/,
    /^by the run's policy: 1 error, failed$/,
    /^Mixed: attempt 3, after 1 error and 1 timeout$/,
    /^Mixed succeeded$/
  ],
  "cancellation.ts": [
    /^later.zip: cancelled$/,
    /^temporary file made$/,
    /^now.zip: requested$/,
    /^now.zip given up$/,
    /^temporary file removed$/,
    /^now.zip: cancelled$/,
    /^now.zip again: finished$/
  ],
  "transaction.ts": [/^order 1 is confirmed$/, /^order 2: out of stock$/, /^orders: 1; runs: \{"order":1\}$/],
  "producer.ts": [/^created 3 runs$/, /^succeeded: small cat.png$/, /^succeeded: small dog.png$/, /^succeeded: small owl.png$/],
  "sqlite.ts": [/^2 \+ 3 = 5, succeeded$/],
  "postgres.ts": [/^2 \+ 3 = 5, succeeded$/],
  "mysql.ts": [/^2 \+ 3 = 5, succeeded$/],
  "cluster.ts": [
    /^one of three processes is killed$/,
    /^30 of 30 runs succeeded$/,
    /^(\d+ of them were taken over by the others|it had nothing in work)$/
  ],
  "shutdown.ts": [
    /^SIGTERM: no more claims$/,
    /^800 ms of work are done$/,
    /^60000 ms of work are interrupted, and begin again elsewhere$/,
    /^good bye$/
  ]
}

/** the examples that need a server get a database of their own */
const onServer = { "postgres.ts": urls.postgres, "mysql.ts": urls.mysql } as const

/** test/readme.test.ts runs it: the README begins with it, and it takes up to a minute to say anything */
const elsewhere = ["minute.ts"]

describe.concurrent("the examples", { timeout: 60_000 }, () => {
  it("are all run", () => {
    assert.sameMembers([...Object.keys(expected), ...elsewhere], readdirSync(examples))
  })

  for (const [file, lines] of Object.entries(expected)) {
    const database = onServer[file as keyof typeof onServer]
    it.skipIf(database !== undefined && database.missing !== "")(`${file} says what it should, and ends`, () =>
      Effect.runPromise(
        Effect.gen(function* () {
          const scope = yield* Effect.scope
          const url = database === undefined ? "" : yield* Scope.extend(database.make, scope)
          const { code, errors, output } = yield* run(file, url === "" ? {} : { DATABASE_URL: url })
          assert.strictEqual(code, 0, `${output}\n${errors}`)
          assert.strictEqual(errors, "")
          const said = output.split("\n")
          let from = 0
          for (const line of lines) {
            const at = said.findIndex((text, i) => i >= from && line.test(text))
            assert.isAtLeast(at, from, `no line ${line} after line ${from} of:\n${output}`)
            from = at + 1
          }
        }).pipe(Effect.scoped)
      )
    )
  }
})
