/**
 * Gets the bench ready and starts it: installs what it needs at the first time, builds the library as it is published, and runs
 * everything that is measured on the same Node, the one that the youngest of the peers ask for.
 */
import { execFileSync, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { fileURLToPath } from "node:url"

// --no-build: the library as it was built the last time
const args = process.argv.slice(2)
const bench = fileURLToPath(new URL(".", import.meta.url))
const root = join(bench, "..")
const modules = join(bench, "node_modules")
const bin = join(modules, ".bin")
const npm = (args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}) =>
  execFileSync("npm", [...args, "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: bench,
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, ...env }
  })

/** does something again when what it depends on has changed */
const unlessDone = (stamp: string, depends: ReadonlyArray<string>, act: () => void) => {
  const hash = createHash("sha256")
  for (const path of depends) hash.update(path).update(readFileSync(path))
  const state = hash.digest("hex")
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === state) return
  act()
  writeFileSync(stamp, state)
}

const install = () => {
  console.error("installing the peers and Node for the bench: a minute or two, once")
  // better-sqlite3 must be built for the Node that will run it, so that comes first
  npm(["install", "--ignore-scripts"])
  npm(["rebuild", "node"])
  const nested = join(modules, "node", "node_modules")
  const headers = readdirSync(nested).find((name) => existsSync(join(nested, name, "include", "node")))
  const loads = () => {
    try {
      execFileSync(join(bin, "node"), ["-e", "new (require('better-sqlite3'))(':memory:')"], { cwd: bench, stdio: "ignore" })
      return true
    } catch {
      return false
    }
  }
  if (loads()) return
  try {
    npm(["rebuild", "better-sqlite3"], {
      PATH: `${bin}${delimiter}${process.env.PATH}`,
      ...(headers === undefined ? {} : { npm_config_nodedir: join(nested, headers) })
    })
  } catch (error) {
    // what counts is whether it works
    if (!loads()) throw error
  }
}

const build = () => {
  const library = join(modules, "jobsd")
  const fresh = join(modules, ".jobsd")
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { recursive: true })
  execFileSync(join(root, "node_modules", ".bin", "tsc"), ["-p", "tsconfig.build.json", "--outDir", join(fresh, "dist")], {
    cwd: root,
    stdio: "inherit"
  })
  cpSync(join(root, "package.json"), join(fresh, "package.json"))
  rmSync(library, { recursive: true, force: true })
  cpSync(fresh, library, { recursive: true })
  rmSync(fresh, { recursive: true, force: true })
}

const files = (directory: string): ReadonlyArray<string> =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()

unlessDone(join(modules, ".installed"), [join(bench, "package.json")], install)
if (!args.includes("--no-build"))
  unlessDone(join(modules, "jobsd", ".built"), [join(root, "package.json"), ...files(join(root, "src"))], build)

const running = spawn(
  join(bin, "node"),
  ["--disable-warning=ExperimentalWarning", join(bench, "main.ts"), ...args.filter((arg) => arg !== "--no-build")],
  { stdio: "inherit" }
)
// Ctrl-C reaches both; the bench stops its servers and then ends
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => signal === "SIGTERM" && running.kill(signal))
running.on("exit", (code) => process.exit(code ?? 1))
