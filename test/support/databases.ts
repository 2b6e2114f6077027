/** One spec, every database: each suite gets a database of its own on each server. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SqlClient } from "@effect/sql"
import type { Vitest } from "@effect/vitest"
import { describe, layer } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { inject } from "vitest"
import { clientLayer } from "./client.js"

export type DatabaseName = "sqlite" | "postgres" | "mysql"

/** Which database a test runs on, and how another process or another client reaches it. */
export class Target extends Context.Tag("test/Target")<Target, { readonly name: DatabaseName; readonly url: string }>() {}

let databases = 0

const onServer = (server: string, drop: (name: string) => string) =>
  Effect.gen(function* () {
    const name = `t_${process.pid}_${Date.now().toString(36)}_${databases++}`
    const run = (text: string) =>
      Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(text)).pipe(Effect.provide(clientLayer(server, 1)), Effect.orDie)
    yield* Effect.acquireRelease(run(`CREATE DATABASE ${name}`), () => run(drop(name)))
    const url = new URL(server)
    url.pathname = `/${name}`
    return url.toString()
  })

const inDirectory = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "jobsd-"))),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
  ),
  (directory) => join(directory, "jobs.db")
)

/** How each suite gets an empty database, and why it cannot. */
export const urls = {
  sqlite: { missing: "", make: inDirectory },
  postgres: {
    missing: inject("postgres").missing,
    make: Effect.suspend(() => onServer(inject("postgres").url!, (name) => `DROP DATABASE ${name} WITH (FORCE)`))
  },
  mysql: {
    missing: inject("mysql").missing,
    make: Effect.suspend(() => onServer(inject("mysql").url!, (name) => `DROP DATABASE ${name}`))
  }
}

/** A new, empty database, and a client for it. */
export const databaseLayer = (name: DatabaseName): Layer.Layer<SqlClient.SqlClient | Target> =>
  Layer.unwrapScoped(Effect.map(urls[name].make, (url) => Layer.merge(clientLayer(url), Layer.succeed(Target, { name, url }))))

/** What a suite's tests are written with: `it.scoped` with the live clock, and the database in the context. */
export type Suite = Vitest.MethodsNonLive<SqlClient.SqlClient | Target, true>

/** Describes a subject once, and tests it on every database. One that is missing is skipped, by name. */
export const onEveryDatabase = (subject: string, define: (it: Suite, database: DatabaseName) => void): void => {
  describe(subject, () => {
    for (const name of ["sqlite", "postgres", "mysql"] as const) {
      const { missing } = urls[name]
      describe.skipIf(missing !== "")(missing === "" ? name : `${name} (${missing})`, () => {
        layer(databaseLayer(name), { timeout: "60 seconds", excludeTestServices: true })((it) => define(it as Suite, name))
      })
    }
  })
}
