// The fault tests with their large counts, and one table of what they found: `npm run faults`, or `npm run faults -- small`.
// What follows is passed on to vitest: `npm run faults -- kills -t "never"`. JOBSD_SEED repeats the choices of an earlier run.
// It fails when a test or a figure failed, when a database was skipped, and, if all tests ran, when a line is missing.
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const all = ["sqlite", "postgres", "mysql"]
const servers = ["postgres", "mysql"]

// which line the table must have for which database: what it begins with; a test that did not get as far says nothing otherwise
const expected = [
  ["SIGKILL at random moments", all],
  ["SIGKILL before and after each statement", all],
  ["from SIGKILL to the start elsewhere", all],
  ["from SIGKILL of 20 to the starts elsewhere, lease", all, "large"],
  ["from SIGKILL of 20 to the starts elsewhere, at the defaults", all, "large"],
  ["all processes killed, others started", all],
  ["SIGTERM with short, long and deaf handlers", all],
  ["SIGTERM twice, the second one hurries", all],
  ["SIGTERM twice, both interrupt", all],
  ["SIGTERM while a claim is in flight", all],
  ["SIGTERM while the database is silent", all],
  ["out of memory", ["sqlite"]],
  ["out of memory", servers, "large"],
  ["poison among 50 innocents", all],
  ["three suspects that live on", all],
  ["exit and uncaughtException in a handler", all],
  ["frozen past the lease, taken over, thawed", all],
  ["frozen past the lease, nobody there", all],
  ["frozen with a release on its way, taken over, thawed", all],
  ["busy loop of 5 s", ["postgres"]],
  ["busy loop of 5 s", ["sqlite", "mysql"], "large"],
  ["heartbeats black-holed, the rest passes", servers],
  ["heartbeats locked out past the lease", ["sqlite"]],
  ["claim replies dropped", all],
  ["claim replies dropped, and the look for them", all],
  ["own connections killed at random", servers],
  ["server killed and restarted", servers],
  ["connection cut before the server, in the client", all],
  ["connection cut after the server, in the client", all],
  ["connection cut before the server, in a proxy", servers],
  ["connection cut after the server, in a proxy", servers],
  ["cut at byte n of a settlement", servers],
  ["all connections black-holed", servers],
  ["latency 200", servers],
  ["pool of 1", all],
  ["pool of 2", servers],
  ["read-only", servers],
  ["default isolation", servers],
  ["8 processes, ", all],
  ["storm of everything at once", all],
  ["12 hot keys, 30 % rollback", all],
  ["conflicts in a transaction of the caller's", all],
  ["groups settled against a sweep", all],
  ["8 processes on a file that is locked", ["sqlite"]],
  ["clocks an hour ahead", all],
  ["clocks that jump", all],
  ["the database's clock", all],
  ["callers interrupted while their write was on its way", all],
  ["10 processes migrate at once", all],
  ["50 processes migrate at once", all, "large"],
  ["killed between the steps of a migration", all],
  ["tables newer than the code", all],
  ["all states of the protocol", ["-"]],
  ["the protocol with", ["-"]],
  ["random sequences of commands on the storage", all],
  ["guards taken out of the statements", all],
  ["guards taken out of the code", ["postgres"]],
  ["guards taken out of the code", ["sqlite", "mysql"], "large"]
]

const args = process.argv.slice(2)
const small = args[0] === "small"
const wanted = small ? args.slice(1) : args
const directory = mkdtempSync(join(tmpdir(), "jobsd-faults-"))
const file = join(directory, "report.jsonl")
const results = join(directory, "results.json")

const filters =
  wanted.length === 0 || wanted[0].startsWith("-") ? ["test/faults/", ...wanted] : [`test/faults/${wanted[0]}`, ...wanted.slice(1)]
const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${results}`]
const { status } = spawnSync("npx", ["vitest", "run", ...filters, ...reporters], {
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
  // what asks no database
  const database = all.includes(figure.database) ? figure.database : "-"
  lines.set(key, { ...figure, database, count: figure.count + (known?.count ?? 0), result })
}

// a suite whose database is missing has the reason behind the database's name
const skipped = new Set()
for (const { assertionResults } of existsSync(results) ? JSON.parse(readFileSync(results, "utf8")).testResults : []) {
  for (const { ancestorTitles } of assertionResults) {
    for (const title of ancestorTitles) {
      const found = /(?:^|: )((?:sqlite|postgres|mysql) \(.+\))$/.exec(title)
      if (found !== null) skipped.add(found[1])
    }
  }
}
rmSync(directory, { recursive: true, force: true })

// `row` keeps together what is about the same kind of fault
const rows = [...lines.values()].sort((a, b) => a.row - b.row || (a.what < b.what ? -1 : a.what > b.what ? 1 : 0))
const columns = ["what", "database", "count", "result", "figure"]
const table = [columns, ...rows.map((row) => columns.map((column) => String(row[column])))]
const widths = columns.map((_, i) => Math.max(...table.map((cells) => cells[i].length)))
console.log(`\nseed ${rows[0]?.seed ?? "unknown"}, ${small ? "small" : "large"} counts\n`)
for (const [i, cells] of table.entries()) {
  console.log(`| ${cells.map((cell, j) => cell.padEnd(widths[j])).join(" | ")} |`)
  if (i === 0) console.log(`|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`)
}

// part of the tests makes part of the lines
const missing =
  wanted.length > 0
    ? []
    : expected
        .filter(([, , when]) => when !== "large" || !small)
        .flatMap(([what, databases]) => databases.map((database) => ({ what, database })))
        .filter(({ database, what }) => !rows.some((row) => row.database === database && row.what.startsWith(what)))

const failed = rows.filter(({ result }) => result === "failed").length
console.log(`\n${rows.length} lines, ${failed} failed, ${missing.length} missing`)
for (const { database, what } of missing) console.log(`missing: ${what}, ${database}`)
for (const database of skipped) console.log(`skipped: ${database}`)
process.exit(status !== 0 || failed > 0 || missing.length > 0 || skipped.size > 0 ? 1 : 0)
