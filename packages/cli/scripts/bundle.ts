/** Makes the bundle of src/bundle.ts. Run by itself, or through `ensureBundle`; the published package has the same one. */
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join, relative } from "node:path"
import { workerBundleName } from "@ggml-rpc/native/worker"
import type { BuildArtifact, BunPlugin } from "bun"
import { pageInputs, pagePlugin } from "../../api/scripts/page.ts"
import { bundlePath, freshBundle, type Manifest, manifestPath } from "../src/bundle.ts"

const packageFolder = join(import.meta.dir, "..")

/** Beside the place it goes to, under a name of this process: several may do this at once. */
const replaceFile = async (path: string, content: string | Blob): Promise<void> => {
  const temporary = `${path}.${process.pid}`
  await Bun.write(temporary, content)
  renameSync(temporary, path)
}

/** What the program starts as processes of their own, by package and module. */
export const workers = ["@ggml-rpc/client/engine", "@ggml-rpc/server/session"] as const

/** Notes the sources of a build: paths from this package's folder. */
const noteInputs = (inputs: Set<string>): BunPlugin => ({
  name: "inputs",
  setup: (build) => {
    build.onLoad({ filter: /\.(ts|js|json)$/ }, ({ path }) => {
      inputs.add(relative(packageFolder, path))
      return undefined
    })
  },
})

const LOOKS_AT_STDOUT = 'typeof process.stdout === "object"'

/**
 * Effect's logger looks whether stdout is a terminal when it is read, for a default that app.ts replaces; that alone loads what
 * terminal.ts does without.
 */
export const stdoutPlugin: BunPlugin = {
  name: "stdout",
  setup: (build) => {
    build.onLoad({ filter: /\/effect\/dist\/esm\/internal\/logger\.js$/ }, async ({ path }) => {
      const text = await Bun.file(path).text()
      if (!text.includes(LOOKS_AT_STDOUT)) throw new Error(`${path} is not as it was`)
      return { contents: text.replace(LOOKS_AT_STDOUT, "false"), loader: "js" }
    })
  },
}

export interface BundleFile {
  readonly name: string
  readonly content: BuildArtifact
}

export interface Bundle {
  /** The program with its chunks, then one file for each of the workers, and the bytecode of each. */
  readonly files: ReadonlyArray<BundleFile>
  /** What it was made of: paths from this package's folder, those in `node_modules` among them. */
  readonly inputs: ReadonlyArray<string>
}

/**
 * Each as one file of CommonJS, with its bytecode in another beside it: Bun makes none of modules.
 *
 * @throws {AggregateError} when a source does not compile
 */
export const withBytecode = async (
  entrypoints: ReadonlyArray<string>,
  options: Partial<Bun.BuildConfig>,
): Promise<ReadonlyArray<BundleFile>> => {
  const { outputs } = await Bun.build({
    ...options,
    entrypoints: [...entrypoints],
    target: "bun",
    format: "cjs",
    bytecode: true,
    minify: { whitespace: true, syntax: true },
    // Bun writes where the sources lay for the one, and leaves the other as it is.
    define: { "import.meta.dir": "module.path", "import.meta.require": "require" },
  })
  return outputs.map((content) => ({ name: basename(content.path), content }))
}

/** @throws {AggregateError} when a source does not compile */
export const buildBundle = async (): Promise<Bundle> => {
  const inputs = new Set<string>()
  for (const path of pageInputs()) inputs.add(relative(packageFolder, path))
  const plugins = [noteInputs(inputs), await pagePlugin(), stdoutPlugin]
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-bundle-"))
  try {
    const { outputs } = await Bun.build({
      entrypoints: [join(packageFolder, "src", "program.ts")],
      target: "bun",
      plugins,
      // A command reads what it needs; only modules can be split so.
      splitting: true,
      outdir: folder,
    })
    const modules = outputs.map(({ path }) => path)
    const program = await withBytecode(modules, { external: ["./chunk-*"] })
    const started = await Promise.all(
      workers.map((module) =>
        withBytecode([Bun.resolveSync(module, packageFolder)], {
          plugins,
          naming: workerBundleName(module),
        }),
      ),
    )
    return { files: [...program, ...started.flat()], inputs: [...inputs].sort() }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** @throws {AggregateError} when a source does not compile */
export const makeBundle = async (): Promise<void> => {
  const startedMs = Date.now()
  const { files, inputs } = await buildBundle()
  const manifest: Manifest = {
    startedMs,
    // Where the versions of the packages of others are written.
    inputs: [...inputs, "../../bun.lock"].filter((path) => !path.includes("node_modules")).sort(),
  }
  const folder = dirname(bundlePath)
  mkdirSync(folder, { recursive: true })
  for (const { name, content } of files) await replaceFile(join(folder, name), content)
  await replaceFile(manifestPath, JSON.stringify(manifest))
  const made = new Set(files.map(({ name }) => name))
  for (const file of readdirSync(folder)) {
    if (/^chunk-.*\.js(\.jsc)?$/.test(file) && !made.has(file))
      rmSync(join(folder, file), { force: true })
  }
}

/** Makes it unless there is one that is up to date. */
export const ensureBundle = async (): Promise<void> => {
  if (freshBundle() === undefined) await makeBundle()
}

if (import.meta.main) await makeBundle()
