// Checks what would be published: builds it, packs it, has publint and attw read the tarball, and then uses it like a stranger would,
// from an ES module and from a CommonJS one, with nothing installed beside it but its peers.
import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { publint } from "publint"
import { formatMessage } from "publint/utils"
import ts from "typescript"

const root = fileURLToPath(new URL("..", import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const peers = Object.keys(manifest.peerDependencies)

/** Runs a program and returns what it printed; when it fails, the error shows that. */
const run = (program, args, cwd = root) => {
  try {
    return execFileSync(program, args, { cwd, encoding: "utf8", stdio: "pipe", timeout: 120_000 })
  } catch (error) {
    throw new Error(`${program} ${args.join(" ")} failed (${error.signal ?? error.status}):\n${error.stdout}${error.stderr}`)
  }
}

/** Only built files may be imported, and only peers: a devDependency would be missing at the user's. */
const checkImports = () => {
  const dist = join(root, "dist")
  const files = readdirSync(dist, { recursive: true }).filter((file) => /\.(js|d\.ts)$/.test(file))
  const problems = files.flatMap((file) =>
    ts.preProcessFile(readFileSync(join(dist, file), "utf8")).importedFiles.flatMap(({ fileName }) => {
      if (fileName.startsWith("node:")) return []
      if (fileName.startsWith(".")) {
        return fileName.endsWith(".js") && existsSync(join(dist, dirname(file), fileName)) ? [] : [`dist/${file} imports ${fileName}`]
      }
      return peers.some((peer) => fileName === peer || fileName.startsWith(`${peer}/`)) ? [] : [`dist/${file} imports ${fileName}, no peer`]
    })
  )
  if (problems.length > 0) throw new Error(problems.join("\n"))
}

const pack = (directory) => {
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", directory]))
  const paths = packed.files.map(({ path }) => path)
  for (const wanted of ["package.json", "LICENSE", "NOTICE"]) {
    if (!paths.includes(wanted)) throw new Error(`the tarball has no ${wanted}`)
  }
  const strangers = paths.filter((path) => !/^(dist\/|src\/|package\.json$|[A-Z]+(\.md)?$)/.test(path))
  if (strangers.length > 0) throw new Error(`the tarball has files that do not belong there: ${strangers.join(", ")}`)
  console.log(`packed ${paths.length} files, ${Math.round(packed.size / 1024)} KiB`)
  return join(directory, packed.filename)
}

/** Installing it brings nothing along but peers, and runs nothing. Of what is packed, which npm may have changed on the way. */
const checkManifest = (tarball) => {
  const packed = JSON.parse(run("tar", ["-xzOf", tarball, "package/package.json"]))
  const bringsAlong = ["dependencies", "optionalDependencies", "bundleDependencies", "bundledDependencies"].filter((key) => key in packed)
  if (bringsAlong.length > 0) throw new Error(`the packed manifest has ${bringsAlong.join(", ")}`)
  // all that npm runs at the user's, whether it comes from a registry, a directory or a repository
  const lifecycle = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare", "prepublish"]
  const scripts = lifecycle.filter((name) => name in (packed.scripts ?? {}))
  if (scripts.length > 0) throw new Error(`the packed manifest has scripts that an install runs: ${scripts.join(", ")}`)
  // npm makes an install script of it by itself
  if (run("tar", ["-tzf", tarball]).includes("binding.gyp")) throw new Error("the tarball has a binding.gyp")
  console.log("the manifest asks for peers alone, and an install runs nothing")
}

const checkWithPublint = async (tarball) => {
  const { messages, pkg } = await publint({ pack: { tarball: new Uint8Array(readFileSync(tarball)).buffer }, strict: true })
  const lines = messages.map((message) => `${message.type}: ${formatMessage(message, pkg, { color: false })}`)
  if (messages.some(({ type }) => type !== "suggestion")) throw new Error(`publint:\n${lines.join("\n")}`)
  console.log(["publint passes", ...lines].join("\n"))
}

// node16 looks at every entry point from both module systems. That require() meets an ES module is meant: the oldest Node that the
// package allows can load it.
const checkWithAttw = (tarball) => {
  const profile = ["--profile", "node16", "--ignore-rules", "cjs-resolves-to-esm"]
  run(join(root, "node_modules", ".bin", "attw"), [tarball, ...profile, "--no-color", "--no-emoji"])
  console.log("attw passes")
}

const entryPoints = Object.entries(manifest.exports).flatMap(([path, target]) =>
  target === null || /[*]|\.json$/.test(path) ? [] : [path.replace(/^\./, manifest.name)]
)

const smokeOf = (load, head) => `${head}
const Add = Job.make("Add", { payload: { a: Schema.Number, b: Schema.Number }, success: Schema.Number })
const Soon = JobSchedule.every("Soon", "1 millis")

const JobsdLive = Jobsd.layer({ jobs: [Add], schedules: [Soon] }).pipe(
  Layer.provide(Add.toLayer(({ a, b }) => Effect.succeed(a + b))),
  Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
)

const program = Effect.gen(function* () {
  const id = yield* Jobsd.createRun(Add, { a: 2, b: 3 }, { schedule: Soon, limit: 1 })
  const look = Effect.delay(Jobsd.getRunState(id), "10 millis")
  const state = yield* Effect.repeat(look, { until: ({ completedAt }) => completedAt !== null })
  return state.status + " " + state.result
}).pipe(Effect.timeout("20 seconds"), Effect.provide(JobsdLive), Effect.scoped)

const refusal = async (path) => {
  try {
    ${load}(path)
    return path + " is open"
  } catch (error) {
    return error.code
  }
}

const main = async () => {
  for (const path of ${JSON.stringify(entryPoints)}) ${load}(path)
  console.log(Job === JobByPath, await Effect.runPromise(program))
  for (const path of ["internal/client", "internal/client.js", "dist/Job.js"]) console.log(await refusal("jobsd/" + path))
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})
`

const programs = {
  "smoke.mjs": smokeOf(
    "await import",
    `import { SqliteClient } from "@effect/sql-sqlite-node"
import { Effect, Layer, Schema } from "effect"
import { Job, Jobsd, JobSchedule } from "jobsd"
import * as JobByPath from "jobsd/Job"
`
  ),
  "smoke.cjs": smokeOf(
    "require",
    `const { SqliteClient } = require("@effect/sql-sqlite-node")
const { Effect, Layer, Schema } = require("effect")
const { Job, JobSchedule } = require("jobsd")
const Jobsd = require("jobsd/Jobsd")
const JobByPath = require("jobsd/Job")
`
  )
}

const expected = ["true succeeded 5", ...Array(3).fill("ERR_PACKAGE_PATH_NOT_EXPORTED")].join("\n")

const checkInUse = (tarball, directory) => {
  const modules = join(directory, "node_modules")
  mkdirSync(join(modules, manifest.name), { recursive: true })
  run("tar", ["-xzf", tarball, "-C", join(modules, manifest.name), "--strip-components=1"])
  for (const peer of peers) {
    mkdirSync(dirname(join(modules, peer)), { recursive: true })
    symlinkSync(join(root, "node_modules", peer), join(modules, peer), "junction")
  }
  for (const [file, text] of Object.entries(programs)) {
    writeFileSync(join(directory, file), text)
    const printed = run(process.execPath, [file], directory).trim()
    if (printed !== expected) throw new Error(`${file} printed:\n${printed}\nexpected:\n${expected}`)
    console.log(`${file} passes on Node ${process.version}`)
  }
}

const work = mkdtempSync(join(tmpdir(), "jobsd-package-"))
try {
  run("npm", ["run", "build"])
  checkImports()
  const tarball = pack(work)
  checkManifest(tarball)
  await checkWithPublint(tarball)
  checkWithAttw(tarball)
  checkInUse(tarball, join(work, "user"))
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
