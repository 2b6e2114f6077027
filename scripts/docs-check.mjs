// Checks the documentation of the public modules: every export says what it is, since when and in which category; every example
// compiles as strictly as the project itself, and runs; and docgen can make pages of it all, which it leaves in docs/api.
//
// The examples are taken from the sources here and not by docgen, which skips those of classes: the errors are classes.
import { execFileSync } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"

const root = fileURLToPath(new URL("..", import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))

const categories = ["models", "constructors", "services", "layers", "running", "errors", "metrics", "type IDs", "guards", "utility types"]

const problems = []
const examples = []

const jsDocOf = (node) => ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc).at(-1)

const tagsOf = (jsDoc, name) => (jsDoc?.tags ?? []).filter((tag) => tag.tagName.text === name)

const textOf = (node) => (ts.getTextOfJSDocComment(node?.comment) ?? "").trim()

// from the source text, because the comment as parsed has lost its indentation
const codeOf = (tag, source) =>
  source.text
    .slice(tag.tagName.end, tag.end)
    .split("\n")
    .map((line) => line.replace(/^\s*\* ?/, ""))
    .filter((line) => !/^(```|~~~)/.test(line))
    .join("\n")
    .trim()

const checkDescribed = (where, jsDoc) => {
  if (textOf(jsDoc) === "") problems.push(`${where}: no description`)
  if (tagsOf(jsDoc, "since").every((tag) => textOf(tag) === "")) problems.push(`${where}: no @since`)
}

/** One exported declaration. A type ID and a namespace speak for themselves; what is inside a namespace is shown by its owner. */
const checkExport = (where, statement, source, nested) => {
  const jsDoc = jsDocOf(statement)
  const category = textOf(tagsOf(jsDoc, "category")[0])
  const found = tagsOf(jsDoc, "example")
  for (const [index, tag] of found.entries()) {
    examples.push({ where, file: `${where.replaceAll(/\W+/g, "-")}-${statement.kind}-${index}.ts`, code: codeOf(tag, source) })
  }
  if (ts.isModuleDeclaration(statement)) {
    if (tagsOf(jsDoc, "since").length === 0) problems.push(`${where}: no @since`)
    for (const member of statement.body.statements) checkExport(`${where}.${nameOf(member)}`, member, source, true)
    return
  }
  if (!categories.includes(category)) problems.push(`${where}: @category is "${category}", expected one of: ${categories.join(", ")}`)
  if (category === "type IDs") {
    if (tagsOf(jsDoc, "since").length === 0) problems.push(`${where}: no @since`)
    return
  }
  checkDescribed(where, jsDoc)
  if (found.length === 0 && !nested) problems.push(`${where}: no @example`)
}

const nameOf = (statement) =>
  ts.isVariableStatement(statement) ? statement.declarationList.declarations.map(({ name }) => name.text).join() : statement.name.text

const checkModule = (path) => {
  const file = basename(path, ".ts")
  const source = ts.createSourceFile(path, readFileSync(path, "utf8"), ts.ScriptTarget.Latest, true)
  checkDescribed(`${file} (the module)`, source.statements[0] && ts.getJSDocCommentsAndTags(source.statements[0]).find(ts.isJSDoc))
  for (const statement of source.statements) {
    if (ts.isExportDeclaration(statement)) {
      checkDescribed(`${file}: ${statement.getText()}`, jsDocOf(statement))
    } else if (statement.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) {
      checkExport(`${file}.${nameOf(statement)}`, statement, source, false)
    }
  }
}

/** Runs one of the installed tools; what it printed is shown only when it fails. */
const run = (tool, args, options = {}) => {
  try {
    execFileSync(join(root, "node_modules", ".bin", tool), args, { encoding: "utf8", stdio: "pipe", ...options })
  } catch (error) {
    throw new Error(`${tool} failed:\n${error.stdout}${error.stderr}`)
  }
}

const checkExamples = (directory) => {
  mkdirSync(directory)
  for (const { file, code } of examples) writeFileSync(join(directory, file), `${code}\n`)
  writeFileSync(join(directory, "index.ts"), examples.map(({ file }) => `import "./${file}"\n`).join(""))
  writeFileSync(join(directory, "tsconfig.json"), JSON.stringify({ extends: join(root, "tsconfig.json"), include: ["*.ts"] }))
  run("tsc", ["-p", directory])
  run("tsx", ["--tsconfig", join(directory, "tsconfig.json"), join(directory, "index.ts")])
}

// docgen reads ./package.json and insists on a homepage; a copy can have one without the package claiming it. Its own option
// --no-run-examples does not work in 0.5.2, the variable does.
const makePages = (directory) => {
  mkdirSync(directory)
  for (const name of ["src", "docgen.json"]) cpSync(join(root, name), join(directory, name), { recursive: true })
  writeFileSync(join(directory, "package.json"), JSON.stringify({ homepage: "", ...manifest }))
  run("docgen", [], { cwd: directory, env: { ...process.env, DOCGEN_RUN_EXAMPLES: "false" } })
  const pages = join(root, "docs", "api")
  rmSync(pages, { recursive: true, force: true })
  cpSync(join(directory, "docs"), pages, { recursive: true })
}

// inside the project, so that the examples find its node_modules
mkdirSync(join(root, "tmp"), { recursive: true })
const work = mkdtempSync(join(root, "tmp", "docs-"))
try {
  const modules = readdirSync(join(root, "src")).filter((file) => file.endsWith(".ts"))
  for (const file of modules) checkModule(join(root, "src", file))
  if (problems.length > 0) throw new Error(problems.join("\n"))
  checkExamples(join(work, "examples"))
  makePages(join(work, "pages"))
  console.log(`docs: ${modules.length} modules, ${examples.length} examples compiled and run, pages in docs/api`)
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
