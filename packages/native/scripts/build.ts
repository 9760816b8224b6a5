#!/usr/bin/env bun
/**
 * Builds the shim: `bun run build:native [--from-source [-- cmake flags]]`.
 *
 * Once per set of libraries and cached: a build whose inputs did not change is a look at a stamp file.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import * as Data from "effect/Data"
import {
  installedShim,
  type LibrarySet,
  librarySet,
  librarySets,
  shimFolder,
} from "../src/libraries.ts"
import {
  buildRoot,
  llamaVersion,
  packageFolder,
  packageVersion,
  packedHeaders,
} from "../src/prebuilt.ts"
import { ensureSource } from "./source.ts"

/** The shim, or ggml itself, could not be built; the message says what is missing and what to do. */
export class NativeBuildError extends Data.TaggedError("NativeBuildError")<{
  readonly reason: "cmake" | "compiler" | "configure" | "compile" | "disk"
  readonly message: string
  readonly cause?: unknown
}> {}

/** What the shim is made of: paths from the package's folder. */
const shimSources = (): ReadonlyArray<string> => [
  "CMakeLists.txt",
  ...[...new Bun.Glob("shim/**/*.{cpp,h}").scanSync(packageFolder())].sort(),
]

const stampOf = (set: LibrarySet): string => {
  const hasher = new Bun.CryptoHasher("sha256")
  hasher.update(`${packageVersion}\n${set.dir}\n${process.arch}\n`)
  for (const file of shimSources()) {
    hasher.update(`${file}\n`)
    hasher.update(readFileSync(join(packageFolder(), file)))
  }
  return hasher.digest("hex")
}

const isCurrent = (folder: string, stamp: string): boolean => {
  const file = join(folder, "stamp")
  return existsSync(file) && readFileSync(file, "utf8") === stamp
}

/**
 * Builds the shim for one set of libraries, unless it is there already or came with the packages. Two processes that build at
 * the same time each work in a folder of their own, and the last rename wins.
 *
 * @throws {NativeBuildError | SourceError}
 */
export const ensureShim = async (
  set: LibrarySet = librarySet(),
  say: (line: string) => void = () => {},
): Promise<string> => {
  const installed = installedShim(set.variant)
  if (installed !== undefined) return installed
  const target = shimFolder(set.variant)
  const stamp = stampOf(set)
  if (isCurrent(target, stamp)) return target
  requireTools()
  say(`building the native shim for ${set.variant} (once)`)
  const source = packedHeaders() ?? (await ensureSource({ say }))
  const work = makeWorkFolder(dirname(target))
  try {
    await cmakeBuild(
      work,
      [`GGML_LIBRARY_DIR=${set.dir}`, `LLAMA_SOURCE_DIR=${source}`],
      [`CMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(work, "lib")}`],
    )
    await Bun.write(join(work, "lib", "stamp"), stamp)
    replaceFolder(join(work, "lib"), target, work)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return target
}

const makeWorkFolder = (parent: string): string => {
  try {
    mkdirSync(parent, { recursive: true })
    return mkdtempSync(join(parent, ".build-"))
  } catch (cause) {
    throw new NativeBuildError({
      reason: "disk",
      message: `The build folder ${parent} cannot be written (${cause instanceof Error ? cause.message : String(cause)}): free it, or name another with GGML_RPC_BUILD_DIR.`,
      cause,
    })
  }
}

const replaceFolder = (from: string, target: string, work: string): void => {
  if (existsSync(target)) {
    try {
      renameSync(target, join(work, "old"))
    } catch {
      // Another process moved it away first.
    }
  }
  try {
    renameSync(from, target)
  } catch (cause) {
    // Somebody was faster: folders only ever appear whole.
    if (existsSync(target)) return
    throw new NativeBuildError({
      reason: "disk",
      message: `What was built could not be moved to ${target}: remove that folder and try again.`,
      cause,
    })
  }
}

const requireTools = (): void => {
  if (Bun.which("cmake") === null) {
    throw new NativeBuildError({
      reason: "cmake",
      message:
        "cmake is not on PATH, and the native shim is built with it: install cmake 3.18 or newer (Debian: apt install cmake).",
    })
  }
  const compiler = process.env.CXX ?? "c++"
  if (!["c++", "g++", "clang++", compiler].some((name) => Bun.which(name) !== null)) {
    throw new NativeBuildError({
      reason: "compiler",
      message:
        "There is no C++ compiler on PATH, and the native shim is C++17: install one (Debian: apt install g++; macOS: xcode-select --install).",
    })
  }
}

/**
 * Configures and builds; definitions become -D flags of the configure step. By cmake-js where it is installed, as in the
 * workspace, which picks the generator; the published packages do with cmake alone.
 */
const cmakeBuild = async (
  work: string,
  ...definitions: ReadonlyArray<ReadonlyArray<string>>
): Promise<void> => {
  // cmake's own variable, which cmake-js would override.
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism())
  const flags = definitions.flat()
  const cmakeJs = join(packageFolder(), "node_modules", "cmake-js", "bin", "cmake-js")
  if (existsSync(cmakeJs)) {
    await runCmake([
      // cmake-js is a Node program; its `bin` script needs no dependency hoisting when called by path.
      ...[Bun.which("node") ?? process.execPath, cmakeJs, "build", "-d", packageFolder()],
      ...["-O", work, "-B", "Release", "--parallel", jobs],
      ...flags.map((flag) => `--CD${flag}`),
    ])
    return
  }
  await runCmake([
    ...["cmake", "-S", packageFolder(), "-B", work, "-DCMAKE_BUILD_TYPE=Release"],
    ...flags.map((flag) => `-D${flag}`),
  ])
  await runCmake(["cmake", "--build", work, "--config", "Release", "--parallel", jobs])
}

const runCmake = async (command: string[]): Promise<void> => {
  const child = Bun.spawn(command, {
    cwd: packageFolder(),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  if (exitCode === 0) return
  const output = `${stdout}\n${stderr}`.trim()
  throw new NativeBuildError({
    reason: output.includes("error:") ? "compile" : "configure",
    message: `cmake could not build the native part (exit code ${exitCode}). Its last lines:\n${output.split("\n").slice(-25).join("\n")}`,
    cause: output,
  })
}

/**
 * Builds ggml and llama from the pinned source, for backends that nobody prebuilds; `flags` are cmake
 * definitions such as `-DGGML_CUDA=ON`. The result is the library set `source`, which is preferred
 * from then on.
 *
 * @throws {NativeBuildError | SourceError}
 */
export const buildFromSource = async (
  flags: ReadonlyArray<string>,
  say: (line: string) => void = () => {},
): Promise<string> => {
  requireTools()
  const source = await ensureSource({ say })
  const root = join(buildRoot(), "source")
  const work = join(root, "cmake")
  const built = join(work, "lib")
  const target = join(root, "lib")
  say(`building ggml and llama ${llamaVersion} from source with ${flags.join(" ") || "no flags"}`)
  // Objects are kept for the next build. Not so what it decides anew: cmake's cache, without which
  // cmake-js configures, and libraries that the flags may no longer ask for.
  rmSync(join(work, "CMakeCache.txt"), { force: true })
  rmSync(built, { recursive: true, force: true })
  await cmakeBuild(
    work,
    [
      "GGML_RPC_FROM_SOURCE=ON",
      `LLAMA_SOURCE_DIR=${source}`,
      "BUILD_SHARED_LIBS=ON",
      ...cpuDefinitions(flags),
      `CMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE=${built}`,
    ],
    flags.map((flag) => flag.replace(/^-D/, "")),
  )
  // Whole or not at all: half a set would be taken for the one to use.
  const staging = makeWorkFolder(root)
  try {
    cpSync(built, join(staging, "lib"), { recursive: true, verbatimSymlinks: true })
    replaceFolder(join(staging, "lib"), target, staging)
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
  return target
}

/**
 * One CPU library per processor generation, the best of which is loaded; for this machine alone when
 * the flags say so, which ggml does not combine with backends that are loaded.
 */
const cpuDefinitions = (flags: ReadonlyArray<string>): ReadonlyArray<string> =>
  flags.some((flag) => /^-DGGML_NATIVE=(ON|1|TRUE|YES|Y)$/i.test(flag))
    ? ["GGML_BACKEND_DL=OFF", "GGML_CPU_ALL_VARIANTS=OFF"]
    : ["GGML_BACKEND_DL=ON", "GGML_NATIVE=OFF", "GGML_CPU_ALL_VARIANTS=ON"]

const main = async (argv: ReadonlyArray<string>): Promise<void> => {
  const say = (line: string): void => console.error(line)
  const fromSource = argv.includes("--from-source")
  const flags = argv.filter((flag) => flag.startsWith("-D"))
  const unknown = argv.filter(
    (flag) => flag !== "--" && flag !== "--from-source" && !flags.includes(flag),
  )
  if (unknown.length > 0 || (flags.length > 0 && !fromSource)) {
    const reason =
      unknown.length > 0
        ? `build:native does not know ${unknown.join(" ")}.`
        : `${flags.join(" ")} needs --from-source: only ggml itself takes flags.`
    console.error(`${reason} Usage: bun run build:native [--from-source [-- -DGGML_CUDA=ON …]]`)
    process.exit(2)
  }
  const started = performance.now()
  try {
    if (fromSource) await buildFromSource(flags, say)
    for (const set of librarySets()) {
      console.error(`${set.variant}: ${await ensureShim(set, say)}`)
    }
    say(`done in ${((performance.now() - started) / 1000).toFixed(1)} s`)
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exit(1)
  }
}

if (import.meta.main) void main(process.argv.slice(2))
