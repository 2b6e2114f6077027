/**
 * Brings PostgreSQL and MariaDB up for one run of the tests and takes them down again: private data directories, loopback, free
 * ports, no root. Servers that are given (JOBSD_TEST_PG_URL, JOBSD_TEST_MYSQL_URL) are used as they are.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chmodSync, chownSync, mkdirSync, mkdtempSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { TestProject } from "vitest/node"
import { ensureMariadb, type Found, findPostgres } from "./binaries.js"

/** A server's URL, or why there is none. */
export interface Server {
  readonly url: string | null
  readonly missing: string
}

declare module "vitest" {
  interface ProvidedContext {
    readonly postgres: Server
    readonly mysql: Server
  }
}

interface Running {
  readonly url: string
  readonly stop: () => Promise<void>
}

const nobody = 65534
const isRoot = process.getuid?.() === 0
const unprivileged = isRoot ? { uid: nobody, gid: nobody } : {}
const environment = { ...process.env, LC_ALL: "C" }

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
      .once("error", reject)
      .listen(0, "127.0.0.1", () => {
        const { port } = server.address() as { readonly port: number }
        server.close(() => resolve(port))
      })
  })

/** short, because the path of a unix socket has at most 107 bytes */
const privateDirectory = (name: string) => {
  const directory = mkdtempSync(join(tmpdir(), `jd-${name}-`))
  if (isRoot) chownSync(directory, nobody, nobody)
  chmodSync(directory, 0o700)
  return directory
}

// A shell owns the server: it stops the server and removes its directory when its stdin closes, which happens when the tests end
// and also when they are killed.
const owner = `"$@" </dev/null & server=$!
(while kill -0 $server 2>/dev/null; do sleep 0.2; done; echo SERVER-EXITED) & watcher=$!
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
    log += data.toString()
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

const startPostgres = async ({ directory: bin }: Found): Promise<Running> => {
  const directory = privateDirectory("pg")
  const data = join(directory, "data")
  const port = await freePort()
  execFileSync(join(bin, "initdb"), ["-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"], {
    ...unprivileged,
    cwd: directory,
    stdio: "pipe",
    env: environment
  })
  const options = {
    listen_addresses: "127.0.0.1",
    port,
    unix_socket_directories: directory,
    fsync: "off",
    synchronous_commit: "off",
    full_page_writes: "off",
    max_connections: 300
  }
  // SIGINT asks for a fast shutdown
  const stop = await serve(directory, "INT", "ready to accept connections", join(bin, "postgres"), [
    "-D",
    data,
    ...Object.entries(options).flatMap(([name, value]) => ["-c", `${name}=${value}`])
  ])
  return { url: `postgres://test@127.0.0.1:${port}/postgres`, stop }
}

const startMariadb = async ({ server, install }: { readonly server: string; readonly install: string }): Promise<Running> => {
  const directory = privateDirectory("my")
  const data = join(directory, "data")
  const init = join(directory, "init.sql")
  const port = await freePort()
  mkdirSync(data)
  if (isRoot) chownSync(data, nobody, nobody)
  execFileSync(install, ["--no-defaults", `--datadir=${data}`, "--auth-root-authentication-method=normal", "--skip-test-db"], {
    ...unprivileged,
    cwd: directory,
    stdio: "pipe"
  })
  execFileSync("sh", ["-c", `cat > "$0"`, init], {
    ...unprivileged,
    input: "CREATE USER test@'127.0.0.1' IDENTIFIED BY 'test';\nGRANT ALL ON *.* TO test@'127.0.0.1';\nCREATE DATABASE test;\n"
  })
  const stop = await serve(directory, "TERM", "ready for connections", server, [
    "--no-defaults",
    `--datadir=${data}`,
    `--socket=${join(directory, "s")}`,
    `--pid-file=${join(directory, "pid")}`,
    `--init-file=${init}`,
    `--port=${port}`,
    "--bind-address=127.0.0.1",
    "--innodb-flush-log-at-trx-commit=0",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=64M",
    "--max-connections=400"
  ])
  return { url: `mysql://test:test@127.0.0.1:${port}/test`, stop }
}

const startMariadbContainer = async (): Promise<Running> => {
  const port = await freePort()
  const docker = (...args: ReadonlyArray<string>) => execFileSync("docker", args, { encoding: "utf8", stdio: "pipe" }).trim()
  const id = docker(
    "run",
    "-d",
    "--rm",
    "-e",
    "MARIADB_ROOT_PASSWORD=test",
    "-e",
    "MARIADB_DATABASE=test",
    "-p",
    `127.0.0.1:${port}:3306`,
    "mariadb:11.4"
  )
  const stop = async () => {
    docker("stop", "-t", "1", id)
  }
  const givenUpAt = Date.now() + 60_000
  for (;;) {
    try {
      docker("exec", id, "healthcheck.sh", "--connect", "--innodb_initialized")
      return { url: `mysql://root:test@127.0.0.1:${port}/test`, stop }
    } catch (error) {
      if (Date.now() > givenUpAt) {
        await stop()
        throw error
      }
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
  }
}

const given = (variable: string): Running | null => {
  const url = process.env[variable]
  return url ? { url, stop: async () => {} } : null
}

const postgres = async (): Promise<Running | string> => {
  const server = given("JOBSD_TEST_PG_URL")
  if (server !== null) return server
  const found = await findPostgres()
  return typeof found === "string" ? found : startPostgres(found)
}

const mysql = async (): Promise<Running | string> => {
  const server = given("JOBSD_TEST_MYSQL_URL")
  if (server !== null) return server
  const found = ensureMariadb()
  return found === "docker" ? startMariadbContainer() : typeof found === "string" ? found : startMariadb(found)
}

export default async (project: TestProject) => {
  const started = await Promise.all([postgres(), mysql()])
  const stops = started.flatMap((server) => (typeof server === "string" ? [] : [server.stop]))
  const missing = started.filter((server) => typeof server === "string")
  if (missing.length > 0 && process.env.CI) {
    await Promise.all(stops.map((stop) => stop()))
    throw new Error(`CI tests every database, but:\n${missing.join("\n")}`)
  }
  for (const reason of missing) console.warn(`SKIPPED ${reason}`)
  const asServer = (server: Running | string): Server =>
    typeof server === "string" ? { url: null, missing: server } : { url: server.url, missing: "" }
  project.provide("postgres", asServer(started[0]))
  project.provide("mysql", asServer(started[1]))
  return () => Promise.all(stops.map((stop) => stop()))
}
