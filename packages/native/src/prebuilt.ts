/**
 * The llama.cpp release that everything here is made for, and where its prebuilt libraries lie: found on the disk,
 * never fetched.
 */
import { existsSync, readFileSync, realpathSync } from "node:fs"
import { homedir } from "node:os"
import { basename, dirname, join, resolve, sep } from "node:path"
import { TaggedError } from "./taggedError.ts"

/** Version of `node-llama-cpp` and of every `@node-llama-cpp/<platform>` package. */
export const packageVersion = "3.22.1"
/** The llama.cpp release in that package. */
export const llamaVersion = "v0.5.0"

/** No package of prebuilt libraries for this platform and variant is installed. */
export class PrebuiltMissingError extends TaggedError("PrebuiltMissingError")<{
  readonly packageName: string
  readonly message: string
}> {}

/** Folder of what an executable with everything in it has unpacked; see {@link useUnpacked}. */
let unpacked: string | undefined

/**
 * Takes libraries and shim from a folder: `bins` holds the set, `shim` its shim. For an executable that carries them,
 * before anything is opened.
 */
export const useUnpacked = (folder: string): void => {
  unpacked = folder
}

/** The folder given to {@link useUnpacked}. */
export const unpackedFolder = (): string | undefined => unpacked

/**
 * Folder of what the shim is built from: this package's, also where this module is part of somebody's bundle; the published
 * `ggml-rpc` is a bundle and carries a copy of it.
 */
export const packageFolder = (): string => {
  const copy = join(import.meta.dir, "..", "native")
  if (existsSync(join(copy, "CMakeLists.txt"))) return copy
  return dirname(Bun.resolveSync("@ggml-rpc/native/package.json", import.meta.dir))
}

/** Whether that folder is an installed package, which nobody edits. */
export const isInstalled = (): boolean =>
  realpathSync(packageFolder()).includes(`${sep}node_modules${sep}`)

/** Folder of this user's for what can be made again, which need not exist yet. */
export const userCacheFolder = (): string =>
  process.platform === "darwin"
    ? join(homedir(), "Library", "Caches", "ggml-rpc")
    : join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "ggml-rpc")

/**
 * Folder for everything built or fetched at build time: `GGML_RPC_BUILD_DIR`, else `packages/native/build`. Of an installed
 * package, which may be read-only, a folder in the user's cache.
 */
export const buildRoot = (): string => {
  if (process.env.GGML_RPC_BUILD_DIR) return resolve(process.env.GGML_RPC_BUILD_DIR)
  return isInstalled()
    ? join(userCacheFolder(), `native-${ownVersion()}`)
    : join(packageFolder(), "build")
}

/** Versions of this package share no folder: each would build its own shim over the other's. */
const ownVersion = (): string =>
  (JSON.parse(readFileSync(join(packageFolder(), "package.json"), "utf8")) as { version: string })
    .version

/** Headers of the pinned release, which travel in the published package; undefined in the workspace, which has none. */
export const packedHeaders = (): string | undefined => {
  const folder = join(packageFolder(), "headers")
  return existsSync(folder) ? folder : undefined
}

/** By npm's words, which are Node's. */
export interface Platform {
  readonly os: string
  readonly cpu: string
}

export const thisPlatform: Platform = { os: process.platform, cpu: process.arch }

/**
 * Name of our package for a platform, an optional dependency of the published ones: it depends on the prebuilt libraries,
 * and holds the shim where that was built for it.
 */
export const platformPackage = ({ os, cpu }: Platform = thisPlatform): string =>
  `@ggml-rpc/native-${os}-${cpu}`

/** The variants of a platform package; each is a complete set of libraries with names of its own. */
export type Variant = "base" | "cuda" | "vulkan"

/** Name of the npm package with the prebuilt libraries for a platform. */
export const prebuiltPackage = (
  variant: Variant = "base",
  { os, cpu }: Platform = thisPlatform,
): string => {
  const platform = os === "darwin" ? "mac" : os === "win32" ? "win" : os
  const base = platform === "mac" && cpu === "arm64" ? "mac-arm64-metal" : undefined
  const name = base ?? `${platform}-${cpu === "arm" ? "armv7l" : cpu}`
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
  if (unpacked !== undefined && variant === "base") return join(unpacked, "bins")
  for (const from of searchFolders()) {
    const dir = installedFolder(packageName, from, join("bins", basename(packageName)))
    if (dir !== undefined) return dir
  }
  throw new PrebuiltMissingError({
    packageName,
    message: `The package ${packageName}@${packageVersion} with the prebuilt ggml libraries is not installed: add it with 'bun add ${packageName}@${packageVersion}', or, where it does not exist for this machine, build from source with 'bun run build:native --from-source'.`,
  })
}

/** Where packages are looked for; a package manager may show the libraries to the platform's package alone. */
const searchFolders = (): ReadonlyArray<string> => {
  if (unpacked !== undefined) return [process.cwd()]
  const platform = installedFolder(platformPackage(), packageFolder(), "")
  return [...(platform === undefined ? [] : [platform]), packageFolder(), process.cwd()]
}

/**
 * Folder of the shim that was built for this platform and the base set, where one came with the packages, which are of the
 * same version.
 */
export const prebuiltShimFolder = (): string | undefined =>
  unpacked === undefined
    ? installedFolder(platformPackage(), packageFolder(), "lib")
    : join(unpacked, "shim")

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
