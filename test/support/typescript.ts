/** What the compiler says of a program that uses the library, with the settings of this project. */
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** The errors of each source, as `line: text`. The sources need not be on disk. */
export const compile = (sources: { readonly [name: string]: string }): { readonly [name: string]: ReadonlyArray<string> } => {
  const configFile = join(root, "tsconfig.json")
  const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(configFile, ts.sys.readFile).config, ts.sys, dirname(configFile))
  const files = new Map(Object.entries(sources).map(([name, code]) => [join(root, "examples", `${name}.ts`), code]))
  const host = ts.createCompilerHost({ ...options, noEmit: true })
  const { fileExists, getSourceFile, readFile } = host
  host.fileExists = (file) => files.has(file) || fileExists(file)
  host.readFile = (file) => files.get(file) ?? readFile(file)
  host.getSourceFile = (file, language, ...rest) => {
    const code = files.get(file)
    return code === undefined ? getSourceFile(file, language, ...rest) : ts.createSourceFile(file, code, language)
  }
  const program = ts.createProgram([...files.keys()], { ...options, noUnusedLocals: false, noUnusedParameters: false }, host)
  return Object.fromEntries(
    [...files.keys()].map((file, i) => {
      const source = program.getSourceFile(file)!
      const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)]
      return [
        Object.keys(sources)[i]!,
        found.map(
          ({ messageText, start }) =>
            `${source.getLineAndCharacterOfPosition(start ?? 0).line + 1}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`
        )
      ]
    })
  )
}
