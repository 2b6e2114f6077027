/** The rooms of the house: which file may import what. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"

const src = fileURLToPath(new URL("../src", import.meta.url))

const files = readdirSync(src, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.replaceAll("\\", "/"))

interface Import {
  readonly from: string
  /** a path within src, or the name of a package */
  readonly to: string
  readonly typeOnly: boolean
}

const imports: ReadonlyArray<Import> = files.flatMap((from) => {
  const text = readFileSync(join(src, from), "utf8").replace(/^\s*\*.*$/gm, "")
  return [...text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^"']*?\sfrom\s+)?["']([^"']+)["']/gm)].map(([_, type, specifier]) => ({
    from,
    to: specifier!.startsWith(".")
      ? relative(src, resolve(src, dirname(from), specifier!))
          .replaceAll("\\", "/")
          .replace(/\.js$/, ".ts")
      : specifier!,
    typeOnly: type !== undefined
  }))
})

const isIn =
  (...places: ReadonlyArray<string>) =>
  (file: string) =>
    places.some((place) => (place.endsWith("/") ? file.startsWith(place) : file === place))

const words = isIn("Run.ts", "Instance.ts", "JobsdError.ts", "JobsdMetrics.ts", "internal/lifecycle.ts", "internal/settings.ts")
const definitions = isIn("Job.ts", "JobSchedule.ts")
const storage = isIn("internal/storage/")
const engine = isIn("internal/engine/")
const service = isIn("Jobsd.ts")
const loops = engine
const sql = (to: string) => to.startsWith("@effect/sql")

/** imports that a rule forbids; types vanish when compiled, so some rules allow them */
const forbidden = (from: (file: string) => boolean, to: (target: string) => boolean, alsoTypes = true) =>
  imports.filter((_) => from(_.from) && to(_.to) && (alsoTypes || !_.typeOnly)).map((_) => `${_.from} imports ${_.to}`)

describe("the house", () => {
  it("is read as it is", () => {
    assert.isAbove(files.length, 30)
    assert.isAbove(imports.length, 200)
    // a rule that matches nothing would hold for ever
    for (const room of [words, definitions, storage, engine, service]) assert.isTrue(files.some(room))
    assert.isTrue(imports.some(({ to }) => sql(to)))
  })

  it("keeps SQL and loops out of the words", () => {
    assert.deepStrictEqual(forbidden(words, sql), [])
    assert.deepStrictEqual(forbidden(words, loops), [])
    assert.deepStrictEqual(forbidden(words, storage), [])
  })

  it("keeps storage and loops out of the definitions", () => {
    assert.deepStrictEqual(forbidden(definitions, storage), [])
    assert.deepStrictEqual(forbidden(definitions, loops), [])
    assert.deepStrictEqual(forbidden(definitions, sql), [])
  })

  it("lets storage know nothing of definitions, loops and the service", () => {
    assert.deepStrictEqual(forbidden(storage, definitions), [])
    assert.deepStrictEqual(forbidden(storage, loops), [])
    assert.deepStrictEqual(forbidden(storage, service), [])
  })

  it("lets the engine speak no SQL, know no dialect, and be handed the service as a value", () => {
    assert.deepStrictEqual(forbidden(engine, sql), [])
    assert.deepStrictEqual(
      forbidden(engine, isIn("internal/storage/dialect.ts", "internal/storage/dialect/", "internal/storage/statement.ts")),
      []
    )
    assert.deepStrictEqual(forbidden(engine, service), [])
  })

  it("lets only storage, and the service that hands it the client, import @effect/sql", () => {
    assert.deepStrictEqual(
      forbidden((file) => !storage(file) && !service(file), sql),
      []
    )
  })

  it("names databases in dialects only", () => {
    const named = files.filter(
      (file) =>
        isIn("internal/")(file) &&
        !isIn("internal/storage/dialect/", "internal/storage/dialect.ts")(file) &&
        /"(postgres|postgresql|mysql|mariadb|sqlite|pg)"/.test(readFileSync(join(src, file), "utf8"))
    )
    assert.deepStrictEqual(named, [])
  })

  it("has a state machine without SQL, clock or Effect", () => {
    assert.deepStrictEqual(
      imports.filter(({ from }) => from === "internal/lifecycle.ts"),
      []
    )
    assert.notMatch(readFileSync(join(src, "internal/lifecycle.ts"), "utf8"), /Date\.now|new Date|performance\.|SELECT|UPDATE /)
  })

  it("opens its internals to nobody", () => {
    const { exports } = JSON.parse(readFileSync(join(src, "../package.json"), "utf8"))
    assert.isNull(exports["./internal/*"])
    const modules = files.filter((file) => !file.includes("/") && file !== "index.ts").map((file) => `./${file.replace(/\.ts$/, "")}`)
    assert.includeMembers(Object.keys(exports), modules)
  })

  it("has no circles", () => {
    const graph = new Map(
      files.map((file) => [file, imports.filter((_) => _.from === file && !_.typeOnly && !sql(_.to)).map(({ to }) => to)])
    )
    const circles: Array<string> = []
    const visit = (file: string, path: ReadonlyArray<string>): void => {
      if (path.includes(file)) {
        circles.push([...path.slice(path.indexOf(file)), file].join(" -> "))
        return
      }
      for (const next of graph.get(file) ?? []) visit(next, [...path, file])
    }
    for (const file of files) visit(file, [])
    assert.deepStrictEqual([...new Set(circles)], [])
  })
})
