/** The README says what is so: its code compiles, its first program runs, its tables agree with the code. */
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { defaults } from "../src/internal/settings.js"
import { tsx } from "./support/processes.js"
import { compile } from "./support/typescript.js"

const root = fileURLToPath(new URL("..", import.meta.url))
const readme = readFileSync(join(root, "README.md"), "utf8")
const blocks = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code!)

// what a reader has in mind after the first program: its imports and definitions, and those of the blocks before
const imports = `
import { SqlClient } from "@effect/sql"
import { MysqlClient } from "@effect/sql-mysql2"
import { PgClient } from "@effect/sql-pg"
import { Context, Redacted, Schedule } from "effect"
`

describe("the README", { timeout: 120_000 }, () => {
  it("has code that compiles, as one program from top to bottom", () => {
    assert.isAtLeast(blocks.length, 10)
    assert.deepStrictEqual(compile({ readme: imports + blocks.join("\n") }).readme, [])
  })

  it("begins with examples/minute.ts", () => {
    assert.strictEqual(blocks[0], readFileSync(join(root, "examples/minute.ts"), "utf8"))
  })

  it("has a first program that runs: it speaks on the minute, and Ctrl-C ends it in good order", async () => {
    const directory = mkdtempSync(join(tmpdir(), "jobsd-"))
    const child = spawn(process.execPath, [...tsx, join(root, "examples/minute.ts")], {
      cwd: directory,
      env: { ...process.env, TSX_TSCONFIG_PATH: join(root, "tsconfig.json") },
      stdio: ["ignore", "pipe", "pipe"]
    })
    try {
      let output = ""
      const exit = new Promise<number | null>((resolve) => child.once("exit", resolve))
      await new Promise<void>((resolve, reject) => {
        const listen = (data: Buffer) => {
          output += data.toString()
          if (output.includes("\n")) resolve()
        }
        child.stdout.on("data", listen)
        child.stderr.on("data", listen)
        child.once("exit", () => reject(new Error(`it ended: ${output}`)))
        setTimeout(() => reject(new Error(`it was silent: ${output}`)), 70_000)
      })
      assert.match(output, /^Hi Simon! The time is \d{4}-\d\d-\d\dT\d\d:\d\d:0[01]\.\d{3}Z\.\n$/)
      child.kill("SIGINT")
      assert.strictEqual(await exit, 0)
      assert.match(output, /^Hi Simon![^\n]*\n$/, "nothing else was said")
    } finally {
      child.kill("SIGKILL")
      rmSync(directory, { recursive: true, force: true })
    }
  })

  it("tells every setting with its default", () => {
    const table = new Map([...readme.matchAll(/^\| `(\w+)` \| ([^|]+) \|/gm)].map(([, name, value]) => [name!, value!.trim()]))
    for (const [name, value] of Object.entries(defaults)) {
      const told = table.get(name)
      assert.isDefined(told, name)
      if (typeof value === "string" && name !== "tablePrefix") {
        assert.strictEqual(Duration.toMillis(told as Duration.DurationInput), Duration.toMillis(value as Duration.DurationInput), name)
      } else if (typeof value !== "object") {
        assert.strictEqual(told, String(value), name)
      }
    }
    for (const [outcome, kept] of Object.entries(defaults.retention)) {
      assert.include(table.get("retention"), outcome)
      assert.include(table.get("retention"), kept)
    }
  })

  it("links to files that exist", () => {
    for (const [, target] of readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g)) assert.isTrue(existsSync(join(root, target!)), target)
  })
})
