/** Folders that `npm publish` takes as they are, one a package. */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { basename, dirname, join } from "node:path"
import { pageModule } from "../../packages/api/scripts/page.ts"
import { buildBundle, withBytecode, workers } from "../../packages/cli/scripts/bundle.ts"
import { ensureSource } from "../../packages/native/scripts/source.ts"
import {
  type Platform,
  platformPackage,
  prebuiltPackage,
  thisPlatform,
} from "../../packages/native/src/prebuilt.ts"
import { compile, reachable } from "./compile.ts"
import {
  libraryManifest,
  needsBunFile,
  platformManifest,
  platforms,
  programManifest,
  runsInNode,
} from "./manifests.ts"
import { baseLibraries, newestNeeded, stageShim } from "./shim.ts"
import { bunVersion, root, type Workspace, workspacesAt } from "./workspaces.ts"

/** A package that is ready to be published. */
export interface StagedPackage {
  readonly name: string
  readonly version: string
  readonly folder: string
}

const writeManifest = (folder: string, manifest: object): void =>
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`)

const copyTexts = (workspace: Workspace, folder: string): void => {
  copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"))
  copyFileSync(join(workspace.folder, "README.md"), join(folder, "README.md"))
}

/** The names that a module exports, for a stand-in that can be imported wherever the module can. */
const valueNames = async (source: string): Promise<ReadonlyArray<string>> =>
  Object.keys((await import(source)) as object).sort()

const needsBun = (name: string, names: ReadonlyArray<string>): string => {
  const message = `${name} needs Bun ${bunVersion} or newer, since it calls native code through bun:ffi: start the program with 'bun', or with 'npx bun'.`
  return [
    `throw new Error(${JSON.stringify(message)})`,
    ...names.map((exported) => `export const ${exported} = undefined`),
    "",
  ].join("\n")
}

const nameOf = (workspace: Workspace, door: string): string =>
  workspace.manifest.name + door.slice(1)

const isWorker = (name: string): boolean => workers.some((worker) => worker === name)

/** The stand-ins for everything but Bun. */
const writeNeedsBun = async (workspace: Workspace, folder: string): Promise<void> => {
  for (const [door, source] of Object.entries(workspace.manifest.exports)) {
    if (!source.endsWith(".ts")) continue
    const name = nameOf(workspace, door)
    const names = isWorker(name) ? [] : await valueNames(join(workspace.folder, source))
    writeFileSync(join(folder, needsBunFile(source)), needsBun(name, names))
  }
}

/** A module lies a folder deeper than its source, seen from package.json. */
const mendManifestImports = (folder: string): void => {
  const dist = join(folder, "dist")
  for (const path of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
    if (!/\.(js|d\.ts)$/.test(path)) continue
    const text = readFileSync(join(dist, path), "utf8")
    const mended = text.replace(/"((?:\.\.\/)+)package\.json"/g, '"$1../package.json"')
    if (mended !== text) writeFileSync(join(dist, path), mended)
  }
}

/** Declarations that no door leads to tell nobody anything. */
const dropInnerDeclarations = (workspace: Workspace, folder: string): void => {
  const doors = Object.values(workspace.manifest.exports).filter((door) => door.endsWith(".ts"))
  const kept = reachable(
    doors.map((door) => join(folder, door.replace("./", "dist/").replace(/\.ts$/, ".d.ts"))),
  )
  const dist = join(folder, "dist")
  for (const path of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
    if (path.endsWith(".d.ts") && !kept.has(join(dist, path))) rmSync(join(dist, path))
  }
}

/** A process of its own is one file, and its bytecode: a hundred small ones take 15 ms to find and read, and 10 to parse. */
const bundleWorkers = async (workspace: Workspace, folder: string): Promise<void> => {
  for (const [door, source] of Object.entries(workspace.manifest.exports)) {
    if (!isWorker(nameOf(workspace, door))) continue
    const target = join(folder, source.replace("./", "./dist/"))
    const files = await withBytecode([join(workspace.folder, source)], {
      sourcemap: "linked",
      naming: basename(source).replace(/\.ts$/, ".js"),
    })
    for (const { name, content } of files) await Bun.write(join(dirname(target), name), content)
  }
}

/** What the shim is compiled from where no package has it: our sources, and headers of the pinned llama.cpp release. */
const copyShimSources = async (native: Workspace, folder: string): Promise<void> => {
  mkdirSync(folder, { recursive: true })
  copyFileSync(join(native.folder, "CMakeLists.txt"), join(folder, "CMakeLists.txt"))
  cpSync(join(native.folder, "shim"), join(folder, "shim"), { recursive: true })
  const source = await ensureSource({ say: (line) => console.error(line) })
  const headers = join(folder, "headers")
  for (const part of ["include", "ggml/include", "ggml/src", "src"]) {
    mkdirSync(join(headers, part), { recursive: true })
    for (const name of readdirSync(join(source, part)).filter((name) => name.endsWith(".h"))) {
      copyFileSync(join(source, part, name), join(headers, part, name))
    }
  }
  copyFileSync(join(source, "LICENSE"), join(headers, "LICENSE"))
}

/** In place of what would build it. */
const stagePage = async (folder: string): Promise<void> => {
  rmSync(join(folder, "dist", "scripts"), { recursive: true })
  const target = join(folder, "dist", "src", "own", "pageSource.js")
  rmSync(`${target}.map`)
  writeFileSync(target, await pageModule())
}

const stageLibrary = async (
  workspace: Workspace,
  compiled: string,
  folder: string,
): Promise<void> => {
  for (const part of ["src", "scripts"]) {
    const from = join(compiled, workspace.shortName, part)
    if (existsSync(from)) cpSync(from, join(folder, "dist", part), { recursive: true })
  }
  if (workspace.shortName === "api") await stagePage(folder)
  mendManifestImports(folder)
  await bundleWorkers(workspace, folder)
  dropInnerDeclarations(workspace, folder)
  if (!runsInNode(workspace.manifest)) await writeNeedsBun(workspace, folder)
  if (workspace.shortName === "native") await copyShimSources(workspace, folder)
  writeManifest(folder, libraryManifest(workspace))
}

const stageProgram = async (
  workspace: Workspace,
  native: Workspace,
  compiled: string,
  folder: string,
): Promise<void> => {
  const dist = join(folder, "dist")
  const from = join(compiled, workspace.shortName, "src")
  const { files, inputs } = await buildBundle()
  for (const { name, content } of files) await Bun.write(join(dist, name), content)
  for (const name of ["start.js", "start.js.map"]) {
    copyFileSync(join(from, name), join(dist, name))
  }
  const launcher = join(dist, "launcher.sh")
  copyFileSync(join(workspace.folder, "src", "launcher.sh"), launcher)
  chmodSync(launcher, 0o755)
  await stageDemoModel(workspace, compiled, dist)
  await copyShimSources(native, join(folder, "native"))
  writeFileSync(
    join(folder, "native", "package.json"),
    `${JSON.stringify({ name: "@ggml-rpc/native", version: native.manifest.version, private: true })}\n`,
  )
  writeFileSync(join(folder, "THIRD-PARTY-LICENSES.md"), thirdParty(workspace, inputs))
  writeManifest(folder, programManifest(workspace))
}

const stageDemoModel = async (
  workspace: Workspace,
  compiled: string,
  dist: string,
): Promise<void> => {
  const { outputs } = await Bun.build({
    entrypoints: [join(workspace.folder, "src", "demo-model", "index.ts")],
    target: "node",
    sourcemap: "linked",
  })
  const folder = join(dist, "demo-model")
  for (const output of outputs) await Bun.write(join(folder, basename(output.path)), output)
  const declarations = join(compiled, workspace.shortName, "src", "demo-model")
  for (const name of readdirSync(declarations).filter((name) => name.endsWith(".d.ts"))) {
    copyFileSync(join(declarations, name), join(folder, name))
  }
}

/** The licences of the packages whose code is in the bundle. */
const thirdParty = (workspace: Workspace, inputs: ReadonlyArray<string>): string => {
  const folders = new Set(
    inputs.flatMap((path) => {
      const found = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)
      return found === null ? [] : [join(workspace.folder, found[1]!)]
    }),
  )
  const parts = [...folders].map((folder) => {
    const { name, version, license } = JSON.parse(
      readFileSync(join(folder, "package.json"), "utf8"),
    ) as { name: string; version: string; license?: string }
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry))
    const text =
      file === undefined
        ? `License: ${license ?? "not named"}`
        : readFileSync(join(folder, file), "utf8").trim()
    return { name, version, text }
  })
  const sections = parts
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, version, text }) => `## ${name} ${version}\n\n\`\`\`\n${text}\n\`\`\`\n`)
  return ["# Licenses of what is bundled into ggml-rpc\n", ...sections].join("\n")
}

const platformReadme = (platform: Platform, glibc: string | undefined): string => {
  const libraries = prebuiltPackage("base", platform)
  const shim =
    glibc === undefined
      ? "It depends on them; our own C++ is compiled at first use, with cmake and a C++17 compiler."
      : `It depends on them, and holds our own C++, built. Both need glibc ${glibc} or newer and the libstdc++ of GCC 11.`
  return [
    `# ${platformPackage(platform)}`,
    "",
    `The native part of [ggml-rpc](https://www.npmjs.com/package/ggml-rpc) for ${platform.os} on ${platform.cpu}: the libraries of ggml and llama.cpp`,
    `are those of \`${libraries}\`. ${shim} npm installs it by itself where it fits.`,
    "",
  ].join("\n")
}

/** With the shim where it is this machine's platform. */
const stagePlatform = async (
  native: Workspace,
  platform: Platform,
  folder: string,
): Promise<void> => {
  const isThis = platform.os === thisPlatform.os && platform.cpu === thisPlatform.cpu
  const lib = join(folder, "lib")
  mkdirSync(folder, { recursive: true })
  if (isThis) await stageShim(lib)
  const files = isThis
    ? [...readdirSync(lib).map((name) => join(lib, name)), ...baseLibraries()]
    : []
  const glibc = newestNeeded(files, "GLIBC")
  copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"))
  writeFileSync(join(folder, "README.md"), platformReadme(platform, glibc))
  writeManifest(folder, platformManifest(native, platform, glibc))
}

/**
 * Makes `folder/SHORT_NAME` for every package, of `version` or the workspaces' own, the platforms' first, in an order in which they can be published.
 *
 * @throws {PublishError | NativeBuildError | SourceError}
 */
export const stageAll = async (
  folder: string,
  version?: string,
): Promise<ReadonlyArray<StagedPackage>> => {
  const workspaces = workspacesAt(version)
  rmSync(folder, { recursive: true, force: true })
  const compiled = join(folder, ".compiled")
  await compile(compiled)
  const native = workspaces.find(({ shortName }) => shortName === "native")!
  const staged: Array<StagedPackage> = []
  for (const platform of platforms) {
    const target = join(folder, `native-${platform.os}-${platform.cpu}`)
    await stagePlatform(native, platform, target)
    staged.push({
      name: platformPackage(platform),
      version: native.manifest.version,
      folder: target,
    })
  }
  for (const workspace of workspaces) {
    const { shortName, manifest } = workspace
    const target = join(folder, shortName)
    mkdirSync(target, { recursive: true })
    copyTexts(workspace, target)
    if (shortName === "cli") await stageProgram(workspace, native, compiled, target)
    else await stageLibrary(workspace, compiled, target)
    staged.push({ name: manifest.name, version: manifest.version, folder: target })
  }
  rmSync(compiled, { recursive: true })
  return staged
}
