/** Makes the bundle of src/bundle.ts. Run by itself, or through `ensureBundle`. */
import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs"
import { basename, dirname, join, relative } from "node:path"
import { workerBundleName } from "@ggml-rpc/native/worker"
import type { BunPlugin } from "bun"
import { bundlePath, freshBundle, type Manifest, manifestPath } from "../src/bundle.ts"

const packageFolder = join(import.meta.dir, "..")

/** Beside the place it goes to, under a name of this process: several may do this at once. */
const replaceFile = async (path: string, content: string | Blob): Promise<void> => {
  const temporary = `${path}.${process.pid}`
  await Bun.write(temporary, content)
  renameSync(temporary, path)
}

/** What the program starts as processes of their own. */
const workers = ["@ggml-rpc/client/engine", "@ggml-rpc/server/session"]

/** Notes the sources of a build, but for the packages of others. */
const noteInputs = (inputs: Set<string>): BunPlugin => ({
  name: "inputs",
  setup: (build) => {
    build.onLoad({ filter: /\.(ts|json)$/ }, ({ path }) => {
      inputs.add(relative(packageFolder, path))
      return undefined
    })
  },
})

/** @throws {AggregateError} when a source does not compile */
export const makeBundle = async (): Promise<void> => {
  const startedMs = Date.now()
  const inputs = new Set<string>()
  const options = { target: "bun" as const, plugins: [noteInputs(inputs)] }
  const result = await Bun.build({
    ...options,
    entrypoints: [join(packageFolder, "src", "program.ts")],
    // What `--version` does not need is in files of its own.
    splitting: true,
  })
  const workerFiles = await Promise.all(
    workers.map(async (module) => {
      const path = Bun.resolveSync(module, packageFolder)
      const { outputs } = await Bun.build({ ...options, entrypoints: [path] })
      return { name: workerBundleName(module), content: outputs[0]! }
    }),
  )
  const manifest: Manifest = {
    startedMs,
    // Where the versions of the packages of others are written.
    inputs: [...inputs, "../../bun.lock"].filter((path) => !path.includes("node_modules")).sort(),
  }
  const folder = dirname(bundlePath)
  mkdirSync(folder, { recursive: true })
  for (const output of result.outputs) await replaceFile(join(folder, output.path), output)
  for (const { name, content } of workerFiles) await replaceFile(join(folder, name), content)
  await replaceFile(manifestPath, JSON.stringify(manifest))
  const made = new Set(result.outputs.map((output) => basename(output.path)))
  for (const file of readdirSync(folder)) {
    if (/^chunk-.*\.js$/.test(file) && !made.has(file)) rmSync(join(folder, file), { force: true })
  }
}

/** Makes it unless there is one that is up to date. */
export const ensureBundle = async (): Promise<void> => {
  if (freshBundle() === undefined) await makeBundle()
}

if (import.meta.main) await makeBundle()
