/**
 * Which set of ggml libraries this process uses, and where its shim lies.
 *
 * A set is complete and its libraries need each other, so a process loads exactly one.
 */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import {
  buildRoot,
  installedVariants,
  isInstalled,
  llamaVersion,
  PrebuiltMissingError,
  packageVersion,
  prebuiltDir,
  prebuiltPackage,
  prebuiltShimFolder,
  unpackedFolder,
} from "./prebuilt.ts"
import { TaggedError } from "./taggedError.ts"

/** `source` is what `bun run build:native --from-source` made; the others are npm packages. */
export type LibraryVariant = "base" | "cuda" | "vulkan" | "source"

/** One complete set of libraries: absolute paths. */
export interface LibrarySet {
  readonly variant: LibraryVariant
  /** Folder in which ggml looks for its backends. */
  readonly dir: string
  readonly ggmlBase: string
  readonly ggml: string
  readonly llama: string
}

/** The set, or the shim for it, is not there. */
export class NativeLibraryError extends TaggedError("NativeLibraryError")<{
  readonly message: string
  readonly cause?: unknown
}> {}

/** The typed error for anything that was thrown while libraries were found and opened. */
export const libraryErrorOf = (cause: unknown): NativeLibraryError | PrebuiltMissingError =>
  cause instanceof NativeLibraryError || cause instanceof PrebuiltMissingError
    ? cause
    : new NativeLibraryError({
        message: `The ggml libraries cannot be opened (${cause instanceof Error ? cause.message : String(cause)}): run 'bun run build:native', and 'bun install' if that does not help.`,
        cause,
      })

const suffix = process.platform === "darwin" ? "dylib" : "so"

const setIn = (variant: LibraryVariant, dir: string): LibrarySet => {
  const names = readdirSync(dir)
  const find = (stem: string): string => {
    const pattern = new RegExp(`^lib${stem}(?:\\.[a-z]+)?(?:\\.(v[\\d.]+))?\\.${suffix}$`)
    const match = names.map((name) => name.match(pattern)).find((found) => found !== null)
    if (match == null) {
      throw new NativeLibraryError({
        message: `${dir} holds no lib${stem}: the set of ggml libraries there is incomplete, reinstall it.`,
      })
    }
    const [name, version = llamaVersion] = match
    // The shim is compiled against the headers of one release; structs differ between releases.
    if (version !== llamaVersion) {
      throw new NativeLibraryError({
        message: `${join(dir, name)} is of llama.cpp ${version}, and ${llamaVersion} is needed: install version ${packageVersion} of its package.`,
      })
    }
    return join(dir, name)
  }
  return { variant, dir, ggmlBase: find("ggml-base"), ggml: find("ggml"), llama: find("llama") }
}

const sourceDir = (): string => join(buildRoot(), "source", "lib")

/** Every set that is there, best first. */
export const librarySets = (): ReadonlyArray<LibrarySet> => {
  if (unpackedFolder() !== undefined) return [setIn("base", prebuiltDir())]
  const sets: Array<LibrarySet> = []
  if (existsSync(sourceDir())) sets.push(setIn("source", sourceDir()))
  const installed = installedVariants()
  for (const variant of ["cuda", "vulkan", "base"] as const) {
    if (installed.includes(variant)) sets.push(setIn(variant, prebuiltDir(variant)))
  }
  return sets
}

/**
 * The set to use: the one named by `GGML_RPC_VARIANT`, else one built from source, else the GPU
 * package that fits this machine, else the base package.
 *
 * @throws {NativeLibraryError | PrebuiltMissingError}
 */
export const librarySet = (): LibrarySet => chooseSet(librarySets(), seenGpus())

/** {@link librarySet} among these sets, on a machine with such GPUs. */
export const chooseSet = (sets: readonly LibrarySet[], seen: SeenGpus): LibrarySet => {
  const wanted = process.env.GGML_RPC_VARIANT
  if (wanted) {
    const named = sets.find((set) => set.variant === wanted)
    if (named !== undefined) return named
    throw new NativeLibraryError({
      message: `GGML_RPC_VARIANT names the library set '${wanted}', which is not installed; there are: ${sets.map((set) => set.variant).join(", ") || "none"}.`,
    })
  }
  const usable = sets.find(
    (set) =>
      (set.variant !== "cuda" || seen.nvidia) &&
      (set.variant !== "vulkan" || seen.nvidia || seen.renderNode),
  )
  if (usable !== undefined) return usable
  throw new PrebuiltMissingError({
    packageName: prebuiltPackage(),
    message: `The package ${prebuiltPackage()} with the prebuilt ggml libraries is not installed: run 'bun install', or build from source with 'bun run build:native --from-source'.`,
  })
}

const hasNvidiaGpu = (): boolean =>
  existsSync("/proc/driver/nvidia/version") || existsSync("/dev/nvidiactl")

const hasRenderNode = (): boolean =>
  existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"))

/** GPUs that this machine shows, whether or not ggml can use them. */
export interface SeenGpus {
  readonly nvidia: boolean
  /** A GPU with a kernel driver for graphics; NVIDIA's does without, as in most containers. */
  readonly renderNode: boolean
}

const seenGpus = (): SeenGpus => ({ nvidia: hasNvidiaGpu(), renderNode: hasRenderNode() })

/**
 * A GPU that this machine has and the chosen set cannot use, as one sentence for the user that names
 * the package to add; undefined when nothing is missing.
 */
export const missingGpuPackage = (
  set: LibrarySet,
  seen: SeenGpus = seenGpus(),
): string | undefined => {
  if (set.variant !== "base" || process.platform !== "linux") return undefined
  if (unpackedFolder() !== undefined && (seen.nvidia || seen.renderNode)) {
    return "This machine has a GPU, but this executable holds the CPU libraries only: ggml-rpc from npm can be given those of a GPU."
  }
  const add = (variant: "cuda" | "vulkan") =>
    `'bun add ${prebuiltPackage(variant)}@${packageVersion}'`
  if (seen.nvidia) {
    return `This machine has an NVIDIA GPU, but only the CPU libraries are installed: ${add("cuda")} lets ggml-rpc use it.`
  }
  if (seen.renderNode) {
    return `This machine has a GPU, but only the CPU libraries are installed: ${add("vulkan")} lets ggml-rpc use it through Vulkan.`
  }
  return undefined
}

/**
 * Folder of the shim that came with the packages, where it fits the set: the prebuilt one is linked to the base set by
 * the names of its libraries, and finds those that are open already.
 */
export const installedShim = (variant: LibraryVariant): string | undefined =>
  variant === "base" ? prebuiltShimFolder() : undefined

/** Folder of the shim of a set that is built on this machine. */
export const shimFolder = (variant: LibraryVariant): string => join(buildRoot(), "shim", variant)

/**
 * Path of one shim library.
 *
 * @throws {NativeLibraryError} when it was not built
 */
export const shimLibrary = (variant: LibraryVariant, name: "io" | "ggml" | "llama"): string => {
  const folder = installedShim(variant) ?? shimFolder(variant)
  const path = join(folder, `libggmlrpc_${name}.${suffix}`)
  if (!existsSync(path)) {
    throw new NativeLibraryError({
      message: `The native shim is not built (${path} is missing): ${isInstalled() ? "run 'ggml-rpc devices' once, or call ensureShim() of @ggml-rpc/native/build before" : "run 'bun run build:native'"}.`,
    })
  }
  return path
}
