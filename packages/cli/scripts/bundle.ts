/** Makes the bundle of src/bundle.ts. Run by itself, or through `ensureBundle`; the published package has the same one. */
import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs"
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

export interface BundleFile {
  readonly name: string
  readonly content: BuildArtifact
}

export interface Bundle {
  /** The program with its chunks, then one file for each of the workers. */
  readonly files: ReadonlyArray<BundleFile>
  /** What it was made of: paths from this package's folder, those in `node_modules` among them. */
  readonly inputs: ReadonlyArray<string>
}

/** @throws {AggregateError} when a source does not compile */
export const buildBundle = async (sourcemap: "none" | "linked" = "none"): Promise<Bundle> => {
  const inputs = new Set<string>()
  for (const path of pageInputs()) inputs.add(relative(packageFolder, path))
  const plugins = [noteInputs(inputs), await pagePlugin()]
  const options = { target: "bun" as const, plugins, sourcemap }
  const { outputs } = await Bun.build({
    ...options,
    entrypoints: [join(packageFolder, "src", "program.ts")],
    // What `--version` does not need is in files of its own.
    splitting: true,
  })
  const program = outputs.map((content) => ({ name: basename(content.path), content }))
  const started = await Promise.all(
    workers.map(async (module) => {
      const built = await Bun.build({
        ...options,
        entrypoints: [Bun.resolveSync(module, packageFolder)],
        naming: workerBundleName(module),
      })
      return built.outputs.map((content) => ({ name: basename(content.path), content }))
    }),
  )
  return { files: [...program, ...started.flat()], inputs: [...inputs].sort() }
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
    if (/^chunk-.*\.js$/.test(file) && !made.has(file)) rmSync(join(folder, file), { force: true })
  }
}

/** Makes it unless there is one that is up to date. */
export const ensureBundle = async (): Promise<void> => {
  if (freshBundle() === undefined) await makeBundle()
}

if (import.meta.main) await makeBundle()
