/** TypeScript to what is published: JavaScript with source maps that hold the source, and declarations. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
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
    // Of Node 20.
    target: "ES2022",
  },
  include: [join(root, "packages/*/src/**/*.ts"), join(root, "packages/native/scripts/*.ts")],
  exclude: ["**/*.test.ts", "**/*.test*.ts", "**/node_modules"].map((path) =>
    join(root, "packages", path),
  ),
})

/** What the declarations of `bun:ffi` infer for a C function, which needs Bun's types to be read. */
const ffiTypes: ReadonlyArray<readonly [RegExp, string]> = [
  [/^\s*__ffi_function_callable: .*;\n/gm, ""],
  [/import\("bun:ffi"\)\.Pointer/g, "number"],
  [/NodeJS\.TypedArray<ArrayBufferLike>/g, "ArrayBufferView"],
  [/import \{ type Pointer \} from "bun:ffi";\n/g, ""],
  [/\bPointer\b/g, "number"],
]

const declaration = (text: string): string => {
  // tsc rewrites the extensions of imports in JavaScript only.
  const imports = text.replace(/((?:from |import\()"\.{1,2}\/[^"]*)\.ts"/g, '$1.js"')
  return ffiTypes.reduce((changed, [pattern, by]) => changed.replace(pattern, by), imports)
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
