/** TypeScript to what is published: JavaScript with source maps that hold the source, and declarations. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { root } from "./workspaces.ts"

/** A build step failed; the message holds what its program printed. */
export class PublishError extends Error {
  override readonly name = "PublishError"
}

/** @throws {PublishError} when it ends with another exit code than 0 */
export const execute = async (command: string[], cwd: string = root): Promise<string> => {
  const child = Bun.spawn(command, { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  if (exitCode === 0) return stdout
  throw new PublishError(`${command.join(" ")} failed (${exitCode}):\n${stdout}${stderr}`)
}

const options = (outDir: string) => ({
  extends: join(root, "tsconfig.json"),
  compilerOptions: {
    noEmit: false,
    outDir,
    rootDir: join(root, "packages"),
    declaration: true,
    stripInternal: true,
    sourceMap: true,
    // No other file is needed to see the source in a debugger.
    inlineSources: true,
    rewriteRelativeImportExtensions: true,
    // From wherever this file lies.
    types: [join(root, "node_modules", "bun-types")],
    // Of Node 20.
    target: "ES2022",
  },
  include: [join(root, "packages/*/src/**/*.ts"), join(root, "packages/native/scripts/*.ts")],
  exclude: ["**/*.test.ts", "**/*.test*.ts", "**/node_modules"].map((path) =>
    join(root, "packages", path),
  ),
})

/**
 * A C function as the declarations tell it: those that tsc infers from `bun:ffi`'s need Bun's types to be read.
 */
const cFunction =
  "(...args: ReadonlyArray<number | bigint | boolean | ArrayBufferView | null>) => any"

/** `declare const open…: () => …` becomes a list of the C functions by their names. */
const withoutFfi = (text: string): string =>
  text.replace(/^declare const (open\w*): [\s\S]*?^(?:\}>?;|\};)$/gm, (statement, name: string) => {
    const names = new Set(
      [...statement.matchAll(/^\s+((?:io|gs|ls|ggml|llama)_\w+): [({]/gm)].map(
        ([, found]) => found!,
      ),
    )
    const functions = [...names].map((found) => `    readonly ${found}: ${cFunction};`)
    const set = statement.includes("LibrarySet")
    return [
      `declare const ${name}: (${set ? "set: LibrarySet" : ""}) => {`,
      ...functions,
      ...(set ? ["    readonly set: LibrarySet;"] : []),
      "};",
    ].join("\n")
  })

const declaration = (text: string): string =>
  // tsc rewrites the extensions of imports in JavaScript only.
  withoutFfi(text.replace(/((?:from |import\()"\.{1,2}\/[^"]*)\.ts"/g, '$1.js"'))
    // An address, which is a number.
    .replace(/^import (?:type )?\{ (?:type )?Pointer \} from "bun:ffi";\n/gm, "")
    .replace(/\bPointer\b/g, "number")

/** The files that these declarations are made of, themselves among them. */
export const reachable = (entries: ReadonlyArray<string>): ReadonlySet<string> => {
  const found = new Set<string>()
  const visit = (path: string): void => {
    if (found.has(path)) return
    found.add(path)
    const text = readFileSync(path, "utf8")
    for (const [, relative] of text.matchAll(/(?:from |import\()"(\.{1,2}\/[^"]+)\.js"/g)) {
      visit(join(dirname(path), `${relative}.d.ts`))
    }
  }
  for (const entry of entries) visit(entry)
  return found
}

/**
 * Compiles all packages into `folder`, as `SHORT_NAME/src/….js`; tests are left out.
 *
 * @throws {PublishError}
 */
export const compile = async (folder: string): Promise<void> => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const config = join(folder, "tsconfig.json")
  writeFileSync(config, JSON.stringify(options(folder)))
  const tsc = join(root, "node_modules", ".bin", "tsc")
  await execute([process.execPath, tsc, "-p", config, "--pretty", "false"])
  for (const path of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith(".d.ts")) continue
    const file = join(folder, path)
    writeFileSync(file, declaration(readFileSync(file, "utf8")))
  }
}
