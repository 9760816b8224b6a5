/**
 * Where ggml and llama.cpp come from: the source tree of the pinned release, and the folder of
 * prebuilt libraries of the same release.
 *
 * The source is the git bundle inside the npm package `node-llama-cpp`. That package is fetched with
 * `npm pack` and is no dependency of the workspace: its optional dependencies are every CUDA and
 * Vulkan build of every platform, 600 MB that a build does not need.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import { TaggedError } from "../src/taggedError.ts"

/** Version of `node-llama-cpp` and of every `@node-llama-cpp/<platform>` package. */
export const packageVersion = "3.22.1"
/** The llama.cpp release in that package. */
export const llamaVersion = "v0.5.0"
/** From `npm view node-llama-cpp@3.22.1 dist.integrity`. */
const tarballIntegrity =
  "sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw=="
const bundlePath = "package/llama/gitRelease.bundle"

/** The source tree could not be made; the message says what is missing and what to do. */
export class SourceError extends TaggedError("SourceError")<{
  readonly reason: "npm" | "git" | "network" | "checksum" | "bundle" | "disk"
  readonly message: string
  readonly cause?: unknown
}> {}

/** No package of prebuilt libraries for this platform and variant is installed. */
export class PrebuiltMissingError extends TaggedError("PrebuiltMissingError")<{
  readonly packageName: string
  readonly message: string
}> {}

/** Folder of this package, also where this module is part of somebody's bundle. */
export const packageFolder = (): string =>
  dirname(Bun.resolveSync("@ggml-rpc/native/package.json", import.meta.dir))

/** Folder for everything built or fetched at build time: `GGML_RPC_BUILD_DIR`, else `packages/native/build`. */
export const buildRoot = (): string =>
  resolve(process.env.GGML_RPC_BUILD_DIR || join(packageFolder(), "build"))

/**
 * Folder of the llama.cpp source tree, fetched and unpacked at the first call. Safe to call from
 * several processes at once: each works in a folder of its own and the first rename wins.
 *
 * @throws {SourceError}
 */
export const ensureSource = async (): Promise<string> => {
  const target = join(buildRoot(), `llama.cpp-${llamaVersion}`)
  if (isSourceTree(target)) return target
  const npm = findTool("npm", "comes from an npm package", "Node.js with npm")
  const git = findTool("git", "is a git bundle", "git")
  const work = makeWorkFolder(buildRoot())
  try {
    const tarball = await download(npm, work)
    await checkIntegrity(tarball)
    const tree = await unpack(git, tarball, work)
    moveInto(tree, target, work)
    return target
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

const isSourceTree = (folder: string): boolean => existsSync(join(folder, "include", "llama.h"))

const findTool = (tool: "npm" | "git", why: string, what: string): string => {
  const path = Bun.which(tool)
  if (path !== null) return path
  throw new SourceError({
    reason: tool,
    message: `${tool} is not on PATH, and the llama.cpp source ${why}: install ${what}.`,
  })
}

const makeWorkFolder = (root: string): string => {
  try {
    mkdirSync(root, { recursive: true })
    return mkdtempSync(join(root, ".fetch-"))
  } catch (cause) {
    throw new SourceError({
      reason: "disk",
      message: `The build folder ${root} cannot be written (${reasonOf(cause)}): free it, or name another with GGML_RPC_BUILD_DIR.`,
      cause,
    })
  }
}

const download = async (npm: string, work: string): Promise<string> => {
  const spec = `node-llama-cpp@${packageVersion}`
  const { exitCode, output } = await execute([npm, "pack", spec, "--ignore-scripts"], work)
  const tarball = readdirSync(work).find((name) => name.endsWith(".tgz"))
  if (exitCode !== 0 || tarball === undefined) {
    throw new SourceError({
      reason: "network",
      message: `npm could not fetch ${spec}, which carries the llama.cpp source (${npmReason(output)}): check the network and npm's registry setting.`,
      cause: output,
    })
  }
  return join(work, tarball)
}

/** The line that tells what went wrong; npm surrounds it with warnings and the path of its log. */
const npmReason = (output: string): string => {
  const errors = output.split("\n").filter((line) => /^npm (error|ERR!)/.test(line))
  const texts = errors.map((line) => line.replace(/^npm (error|ERR!)\s*/, "").trim())
  const telling = texts.filter((text) => text !== "" && !text.startsWith("A complete log"))
  return telling.slice(0, 3).join("; ") || "npm printed no error"
}

const checkIntegrity = async (tarball: string): Promise<void> => {
  const hasher = new Bun.CryptoHasher("sha512")
  for await (const chunk of Bun.file(tarball).stream()) hasher.update(chunk)
  const integrity = `sha512-${hasher.digest("base64")}`
  if (integrity === tarballIntegrity) return
  throw new SourceError({
    reason: "checksum",
    message: `The fetched ${basename(tarball)} has checksum ${integrity} where ${tarballIntegrity} is pinned: the download is damaged (run 'npm cache clean --force' and try again) or the registry serves another package.`,
  })
}

const unpack = async (git: string, tarball: string, work: string): Promise<string> => {
  await new Bun.Archive(await Bun.file(tarball).bytes()).extract(work, { glob: bundlePath })
  const bundle = join(work, bundlePath)
  if (!existsSync(bundle)) {
    throw new SourceError({
      reason: "bundle",
      message: `${basename(tarball)} holds no ${bundlePath}: this version of node-llama-cpp packs its source elsewhere.`,
    })
  }
  const tree = join(work, "tree")
  const { exitCode, output } = await execute([git, "clone", "--quiet", bundle, tree], work)
  if (exitCode !== 0 || !isSourceTree(tree)) {
    throw new SourceError({
      reason: "bundle",
      message: `git could not clone the llama.cpp bundle (${output.trim() || `exit code ${exitCode}`}).`,
      cause: output,
    })
  }
  return tree
}

const moveInto = (tree: string, target: string, work: string): void => {
  for (let attempt = 1; ; attempt++) {
    try {
      renameSync(tree, target)
      return
    } catch (cause) {
      // Somebody was faster, or what lies there was damaged by hand; others may be repairing it too.
      if (isSourceTree(target)) return
      if (attempt === 5) {
        throw new SourceError({
          reason: "disk",
          message: `The llama.cpp source could not be moved to ${target} (${reasonOf(cause)}): remove that folder and try again.`,
          cause,
        })
      }
      moveAway(target, join(work, `damaged-${attempt}`))
    }
  }
}

const moveAway = (folder: string, to: string): void => {
  try {
    renameSync(folder, to)
  } catch {
    // The next attempt tells whether it still is in the way.
  }
}

const execute = async (
  command: string[],
  cwd: string,
): Promise<{ exitCode: number; output: string }> => {
  // git must see the new folder only, whatever repository a hook or a worktree points it to.
  const { GIT_DIR: _dir, GIT_WORK_TREE: _tree, GIT_INDEX_FILE: _index, ...env } = process.env
  const child = Bun.spawn(command, {
    cwd,
    env: { ...env, GIT_TERMINAL_PROMPT: "0" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  return { exitCode, output: `${stdout}${stderr}` }
}

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? cause.message : String(cause)

/** The variants of a platform package; each is a complete set of libraries with names of its own. */
export type Variant = "base" | "cuda" | "vulkan"

/** Paths of one set of prebuilt libraries. A process loads exactly one set. */
export interface PrebuiltLibraries {
  /** Folder of them all; ggml looks for its backends here. */
  readonly dir: string
  readonly ggmlBase: string
  readonly ggml: string
  readonly llama: string
  /** Upstream's helpers for its tools; only the peers of the tests need it. */
  readonly llamaCommon: string
  /** One or more per device kind, such as `libggml-cpu-haswell.so`; ggml picks the best of a kind. */
  readonly backends: ReadonlyArray<string>
}

/** Name of the npm package with the prebuilt libraries for this machine. */
export const prebuiltPackage = (variant: Variant = "base"): string => {
  const platform =
    process.platform === "darwin" ? "mac" : process.platform === "win32" ? "win" : process.platform
  const base = platform === "mac" && process.arch === "arm64" ? "mac-arm64-metal" : undefined
  const name = base ?? `${platform}-${process.arch === "arm" ? "armv7l" : process.arch}`
  return `@node-llama-cpp/${name}${variant === "base" ? "" : `-${variant}`}`
}

/**
 * Folder of the installed prebuilt libraries, such as `…/bins/linux-x64`. Looks beside this package
 * first, then from the current directory: a variant is added by the user's project, not by ours.
 *
 * @throws {PrebuiltMissingError}
 */
export const prebuiltDir = (variant: Variant = "base"): string => {
  const packageName = prebuiltPackage(variant)
  for (const from of [packageFolder(), process.cwd()]) {
    const dir = installedFolder(packageName, from, join("bins", basename(packageName)))
    if (dir !== undefined) return dir
  }
  throw new PrebuiltMissingError({
    packageName,
    message: `The package ${packageName}@${packageVersion} with the prebuilt ggml libraries is not installed: add it with 'bun add ${packageName}@${packageVersion}', or, where it does not exist for this machine, build from source with 'bun run build:native --from-source'.`,
  })
}

/**
 * A folder of an installed package, as programs below `from` find it. Not by `Bun.resolveSync`: where no
 * `node_modules` is near, that downloads the package.
 */
const installedFolder = (name: string, from: string, folder: string): string | undefined => {
  for (let at = realpathSync(from); ; at = dirname(at)) {
    const found = join(at, "node_modules", name, folder)
    if (existsSync(found)) return realpathSync(found)
    if (at === dirname(at)) return undefined
  }
}

/** Variants whose package is installed for this machine. */
export const installedVariants = (): ReadonlyArray<Variant> =>
  (["base", "cuda", "vulkan"] as const).filter((variant) => {
    try {
      return prebuiltDir(variant) !== ""
    } catch (error) {
      if (error instanceof PrebuiltMissingError) return false
      throw error
    }
  })

/**
 * Library files of a set. Their names differ: `libllama.v0.5.0.so`, `libllama.cuda.v0.5.0.so`.
 *
 * @throws {PrebuiltMissingError} when the package, or one of its libraries, is not there
 */
export const prebuiltLibraries = (variant: Variant = "base"): PrebuiltLibraries => {
  const dir = prebuiltDir(variant)
  const names = readdirSync(dir).sort()
  const one = (pattern: RegExp): string => {
    const name = names.find((candidate) => pattern.test(candidate))
    if (name !== undefined) return join(dir, name)
    const packageName = prebuiltPackage(variant)
    throw new PrebuiltMissingError({
      packageName,
      message: `${dir} holds no library that matches ${pattern.source}: reinstall ${packageName}@${packageVersion}.`,
    })
  }
  const suffix = String.raw`(\.[a-z]+)?(\.v[\d.]+)?\.(so|dylib|dll)$`
  return {
    dir,
    ggmlBase: one(new RegExp(`^(lib)?ggml-base${suffix}`)),
    ggml: one(new RegExp(`^(lib)?ggml${suffix}`)),
    llama: one(new RegExp(`^(lib)?llama${suffix}`)),
    llamaCommon: one(new RegExp(`^(lib)?llama-common${suffix}`)),
    backends: names
      .filter((name) => /^(lib)?ggml-(?!base)[\w.-]+\.(so|dylib|dll)$/.test(name))
      .map((name) => join(dir, name)),
  }
}
