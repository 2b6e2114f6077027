/**
 * Brings PostgreSQL and MariaDB up for one run of the tests and takes them down again: private data directories, loopback, free
 * ports, no root. Servers that are given (JOBSD_TEST_PG_URL, JOBSD_TEST_MYSQL_URL) are used as they are.
 */
import { execFileSync } from "node:child_process"
import type { TestProject } from "vitest/node"
import { ensureMariadb, findPostgres } from "./binaries.js"
import { type Cluster, freePort, prepareMariadb, preparePostgres } from "./clusters.js"

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

const started = async (cluster: Cluster): Promise<Running> => ({ url: cluster.url, stop: (await cluster.start()).stop })

const given = (variable: string): Running | null => {
  const url = process.env[variable]
  return url ? { url, stop: async () => {} } : null
}

const postgres = async (): Promise<Running | string> => {
  const server = given("JOBSD_TEST_PG_URL")
  if (server !== null) return server
  const found = await findPostgres()
  return typeof found === "string" ? found : started(await preparePostgres(found))
}

const mysql = async (): Promise<Running | string> => {
  const server = given("JOBSD_TEST_MYSQL_URL")
  if (server !== null) return server
  const found = ensureMariadb()
  return found === "docker" ? startMariadbContainer() : typeof found === "string" ? found : started(await prepareMariadb(found))
}

export default async (project: TestProject) => {
  const servers = await Promise.all([postgres(), mysql()])
  const stops = servers.flatMap((server) => (typeof server === "string" ? [] : [server.stop]))
  const missing = servers.filter((server) => typeof server === "string")
  if (missing.length > 0 && process.env.CI) {
    await Promise.all(stops.map((stop) => stop()))
    throw new Error(`CI tests every database, but:\n${missing.join("\n")}`)
  }
  for (const reason of missing) console.warn(`SKIPPED ${reason}`)
  const asServer = (server: Running | string): Server =>
    typeof server === "string" ? { url: null, missing: server } : { url: server.url, missing: "" }
  project.provide("postgres", asServer(servers[0]))
  project.provide("mysql", asServer(servers[1]))
  return () => Promise.all(stops.map((stop) => stop()))
}
