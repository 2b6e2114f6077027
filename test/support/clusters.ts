/** Database servers of our own: a private data directory, loopback, a free port, no root. They can be killed and started again. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Found } from "./binaries.js"

/** A server that runs. */
export interface Serving {
  readonly stop: () => Promise<void>
  /** ends it as a crash would, and waits until it is gone */
  readonly kill: () => Promise<void>
}

/** A data directory, and the port it is served on. */
export interface Cluster {
  readonly url: string
  /** its directory is removed when the server stops, unless it is to be kept */
  readonly start: (keep?: "keep") => Promise<Serving>
  readonly remove: () => void
}

const nobody = 65534
const isRoot = process.getuid?.() === 0
const unprivileged = isRoot ? { uid: nobody, gid: nobody } : {}
const environment = { ...process.env, LC_ALL: "C" }

export const freePort = () =>
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
echo "SERVER-PID $server."
(while kill -0 $server 2>/dev/null; do sleep 0.2; done; echo SERVER-EXITED) & watcher=$!
cat >/dev/null
kill -$SIGNAL $server 2>/dev/null
wait $server
kill $watcher 2>/dev/null
[ "$KEEP" = keep ] || rm -rf "$0"`

const serve = async (
  {
    crash,
    directory,
    keep,
    ready,
    signal
  }: {
    readonly directory: string
    readonly signal: "INT" | "TERM"
    readonly crash: "SIGQUIT" | "SIGKILL"
    readonly ready: string
    readonly keep: "keep" | undefined
  },
  binary: string,
  args: ReadonlyArray<string>
): Promise<Serving> => {
  const child: ChildProcess = spawn("sh", ["-c", owner, directory, binary, ...args], {
    ...unprivileged,
    cwd: "/",
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...environment, SIGNAL: signal, KEEP: keep ?? "" }
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
  const stop = () =>
    new Promise<void>((resolve) => {
      if (child.exitCode !== null) return resolve()
      child.once("exit", () => resolve())
      child.stdin?.end()
    })
  return {
    stop,
    kill: async () => {
      process.kill(Number(/SERVER-PID (\d+)/.exec(log)![1]), crash)
      while (!log.includes("SERVER-EXITED")) await new Promise((resolve) => setTimeout(resolve, 20))
      await stop()
    }
  }
}

/** `durable`: what was committed survives a crash of the server. */
export const preparePostgres = async ({ directory: bin }: Found, durable = false): Promise<Cluster> => {
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
    synchronous_commit: durable ? "on" : "off",
    full_page_writes: "off",
    max_connections: 300
  }
  const args = ["-D", data, ...Object.entries(options).flatMap(([name, value]) => ["-c", `${name}=${value}`])]
  return {
    remove: () => rmSync(directory, { recursive: true, force: true }),
    url: `postgres://test@127.0.0.1:${port}/postgres`,
    // SIGINT asks for a fast shutdown, SIGQUIT for an immediate one, which is as good as a crash and leaves no process behind
    start: (keep) =>
      serve({ directory, signal: "INT", crash: "SIGQUIT", ready: "ready to accept connections", keep }, join(bin, "postgres"), args)
  }
}

export const prepareMariadb = async (
  { server, install }: { readonly server: string; readonly install: string },
  durable = false
): Promise<Cluster> => {
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
    input:
      "CREATE USER IF NOT EXISTS test@'127.0.0.1' IDENTIFIED BY 'test';\nGRANT ALL ON *.* TO test@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS test;\n"
  })
  const args = [
    "--no-defaults",
    `--datadir=${data}`,
    `--socket=${join(directory, "s")}`,
    `--pid-file=${join(directory, "pid")}`,
    // a server that starts removes the temporary tables it finds, and those of others are in the same directory otherwise: they crash
    `--tmpdir=${directory}`,
    `--init-file=${init}`,
    `--port=${port}`,
    "--bind-address=127.0.0.1",
    `--innodb-flush-log-at-trx-commit=${durable ? 1 : 0}`,
    "--skip-log-bin",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=64M",
    "--max-connections=400"
  ]
  return {
    remove: () => rmSync(directory, { recursive: true, force: true }),
    url: `mysql://test:test@127.0.0.1:${port}/test`,
    start: (keep) => serve({ directory, signal: "TERM", crash: "SIGKILL", ready: "ready for connections", keep }, server, args)
  }
}
