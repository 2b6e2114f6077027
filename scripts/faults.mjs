// The fault tests with their large counts, and one table of what they found: `npm run faults`, or `npm run faults -- small`.
// What follows is passed on to vitest: `npm run faults -- kills -t "never"`. JOBSD_SEED repeats the choices of an earlier run.
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const args = process.argv.slice(2)
const small = args[0] === "small"
const wanted = small ? args.slice(1) : args
const directory = mkdtempSync(join(tmpdir(), "jobsd-faults-"))
const file = join(directory, "report.jsonl")

const filters =
  wanted.length === 0 || wanted[0].startsWith("-") ? ["test/faults/", ...wanted] : [`test/faults/${wanted[0]}`, ...wanted.slice(1)]
const { status } = spawnSync("npx", ["vitest", "run", ...filters], {
  stdio: "inherit",
  env: { ...process.env, JOBSD_FAULTS: small ? "small" : "large", JOBSD_FAULTS_REPORT: file }
})

// what several tests say about the same thing is one line
const lines = new Map()
for (const text of existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : []) {
  const figure = JSON.parse(text)
  const key = `${figure.row} ${figure.what} ${figure.database}`
  const known = lines.get(key)
  const result = known?.result === "failed" ? "failed" : figure.result
  lines.set(key, { ...figure, count: figure.count + (known?.count ?? 0), result })
}
rmSync(directory, { recursive: true, force: true })

const rows = [...lines.values()].sort((a, b) => a.row - b.row || (a.what < b.what ? -1 : a.what > b.what ? 1 : 0))
const columns = ["row", "what", "database", "count", "result", "figure"]
const table = [columns, ...rows.map((row) => columns.map((column) => String(row[column])))]
const widths = columns.map((_, i) => Math.max(...table.map((cells) => cells[i].length)))
console.log(`\nseed ${rows[0]?.seed ?? "unknown"}, ${small ? "small" : "large"} counts\n`)
for (const [i, cells] of table.entries()) {
  console.log(`| ${cells.map((cell, j) => cell.padEnd(widths[j])).join(" | ")} |`)
  if (i === 0) console.log(`|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`)
}

const failed = rows.filter(({ result }) => result === "failed").length
console.log(`\n${rows.length} lines, ${failed} failed`)
process.exit(status !== 0 || failed > 0 ? 1 : 0)
