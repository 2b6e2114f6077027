/**
 * The database servers of one bench: private data directories on a real disk, loopback, free ports, no root, and durable. Settings
 * are those of a fresh installation, so that a commit that was answered is on the disk.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ensureMariadb, findPostgres } from "../test/support/binaries.ts"

/** Where a server answers: `url` lacks only the name of a database. */
export interface Running {
  readonly url: string
  readonly stop: () => Promise<void>
}

const nobody = 65534
const isRoot = process.getuid?.() === 0
const unprivileged = isRoot ? { uid: nobody, gid: nobody } : {}
const environment = { ...process.env, LC_ALL: "C" }

const isMemory = (directory: string) => statfsSync(directory).type === 0x01021994

/** fsync in a file system that lives in memory costs nothing, and would flatter everyone */
export const diskDirectory = process.env.BENCH_DIR ?? [tmpdir(), "/var/tmp"].find((at) => existsSync(at) && !isMemory(at)) ?? process.cwd()

/** short, because the path of a unix socket has at most 107 bytes */
export const privateDirectory = (name: string): string => {
  const directory = mkdtempSync(join(diskDirectory, `jb-${name}-`))
  if (isRoot) chownSync(directory, nobody, nobody)
  chmodSync(directory, 0o700)
  return directory
}

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
      .once("error", reject)
      .listen(0, "127.0.0.1", () => {
        const { port } = server.address() as { readonly port: number }
        server.close(() => resolve(port))
      })
  })

// A shell owns the server: it stops the server and removes its directory when its stdin closes, which happens when the bench ends,
// and also when it is killed.
const owner = `"$@" </dev/null & server=$!
(while kill -0 $server 2>/dev/null; do sleep 0.5; done; echo SERVER-EXITED) & watcher=$!
cat >/dev/null
kill -$SIGNAL $server 2>/dev/null
wait $server
kill $watcher 2>/dev/null
rm -rf "$0"`

const serve = async (directory: string, signal: "INT" | "TERM", ready: string, binary: string, args: ReadonlyArray<string>) => {
  const child: ChildProcess = spawn("sh", ["-c", owner, directory, binary, ...args], {
    ...unprivileged,
    cwd: "/",
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...environment, SIGNAL: signal }
  })
  let log = ""
  const listen = (data: Buffer) => {
    log = (log + data.toString()).slice(-20_000)
  }
  child.stdout?.on("data", listen)
  child.stderr?.on("data", listen)
  const givenUpAt = Date.now() + 60_000
  while (!log.includes(ready)) {
    if (Date.now() > givenUpAt || log.includes("SERVER-EXITED") || child.exitCode !== null) {
      child.stdin?.end()
      throw new Error(`${binary} did not start:\n${log}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return () =>
    new Promise<void>((resolve) => {
      if (child.exitCode !== null) return resolve()
      child.once("exit", () => resolve())
      child.stdin?.end()
    })
}

export const startPostgres = async (): Promise<Running | string> => {
  const found = await findPostgres()
  if (typeof found === "string") return found
  const bin = found.directory
  const start = async (extra: { readonly [setting: string]: string }) => {
    const directory = privateDirectory("pg")
    const data = join(directory, "data")
    const port = await freePort()
    execFileSync(join(bin, "initdb"), ["-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"], {
      ...unprivileged,
      cwd: directory,
      stdio: "pipe",
      env: environment
    })
    const settings = { listen_addresses: "127.0.0.1", port, unix_socket_directories: directory, ...extra }
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
    // SIGINT asks for a fast shutdown
    const stop = await serve(directory, "INT", "ready to accept connections", join(bin, "postgres"), ["-D", data, ...args])
    return { url: `postgres://bench@127.0.0.1:${port}`, stop }
  }
  // it counts the statements of each database; not every build of the server has it
  return start({ shared_preload_libraries: "pg_stat_statements" }).catch(() => start({}))
}

export const startMariadb = async (): Promise<Running | string> => {
  const found = ensureMariadb()
  if (found === "docker") return "mariadb: a container's disk is not the machine's; install mariadb-server to measure it"
  if (typeof found === "string") return found
  const directory = privateDirectory("my")
  const data = join(directory, "data")
  const init = join(directory, "init.sql")
  const port = await freePort()
  mkdirSync(data)
  writeFileSync(init, "CREATE USER bench@'%' IDENTIFIED BY 'bench';\nGRANT ALL ON *.* TO bench@'%';\n")
  if (isRoot) for (const path of [data, init]) chownSync(path, nobody, nobody)
  execFileSync(found.install, ["--no-defaults", `--datadir=${data}`, "--auth-root-authentication-method=normal", "--skip-test-db"], {
    ...unprivileged,
    cwd: directory,
    stdio: "pipe"
  })
  const stop = await serve(directory, "TERM", "ready for connections", found.server, [
    "--no-defaults",
    `--datadir=${data}`,
    `--socket=${join(directory, "s")}`,
    `--pid-file=${join(directory, "pid")}`,
    // a server that starts removes the temporary tables it finds, and those of others are in the same directory otherwise
    `--tmpdir=${directory}`,
    `--init-file=${init}`,
    `--port=${port}`,
    "--bind-address=127.0.0.1"
  ])
  return { url: `mysql://bench:bench@127.0.0.1:${port}`, stop }
}

/** SQLite needs no server, only a directory. */
export const startSqlite = async (): Promise<Running> => {
  const directory = privateDirectory("lite")
  return { url: directory, stop: async () => rmSync(directory, { recursive: true, force: true }) }
}
