/** Programs of the fault tests as one file each: that starts five times as fast as a tree of modules compiled on the way. */
import { mkdirSync, readdirSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"

// inside node_modules, where the native driver is found
const directory = fileURLToPath(new URL("../../../node_modules/.cache/jobsd-faults/", import.meta.url))

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** What processes that are gone have left: those of the tests are ended without a word. */
const tidy = () => {
  for (const file of readdirSync(directory)) {
    const pid = /-(\d+)\.mjs$/.exec(file)?.[1]
    if (pid === undefined || !isAlive(Number(pid))) rmSync(`${directory}${file}`, { force: true })
  }
}

const bundles = new Map<string, Promise<string>>()

/** The path of the bundle of a module beside this one, made once per process. */
export const bundled = (name: string): Promise<string> => {
  const make = async () => {
    mkdirSync(directory, { recursive: true })
    tidy()
    const outfile = `${directory}${name}-${process.pid}.mjs`
    await build({
      entryPoints: [fileURLToPath(new URL(`${name}.ts`, import.meta.url))],
      outfile,
      bundle: true,
      platform: "node",
      format: "esm",
      external: ["better-sqlite3"],
      logLevel: "error",
      banner: { js: `import { createRequire } from "node:module"; const require = createRequire(import.meta.url);` }
    })
    return outfile
  }
  const known = bundles.get(name) ?? make()
  bundles.set(name, known)
  return known
}
