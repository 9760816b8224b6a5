/**
 * The llama.cpp release that everything here is made for, and where its prebuilt libraries lie: found on the disk,
 * never fetched.
 */
import { existsSync, realpathSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
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

/** Folder of this package, also where this module is part of somebody's bundle. */
export const packageFolder = (): string =>
  dirname(Bun.resolveSync("@ggml-rpc/native/package.json", import.meta.dir))

/** Folder for everything built or fetched at build time: `GGML_RPC_BUILD_DIR`, else `packages/native/build`. */
export const buildRoot = (): string =>
  resolve(process.env.GGML_RPC_BUILD_DIR || join(packageFolder(), "build"))

/** The variants of a platform package; each is a complete set of libraries with names of its own. */
export type Variant = "base" | "cuda" | "vulkan"

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
