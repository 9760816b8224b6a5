/** The shim as the package of this platform: the one that the workspace has built, without the paths of this machine. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { ensureShim } from "../../packages/native/scripts/build.ts"
import { librarySets } from "../../packages/native/src/libraries.ts"
import { execute, PublishError } from "./compile.ts"

/** Versions of a library that a program asks for, the newest last: `symbolVersions(path, "GLIBC")` → `["2.2.5", "2.34"]`. */
export const symbolVersions = (path: string, library: string): ReadonlyArray<string> => {
  // The names of versions are texts of the dynamic linker's own, and a program has those alone that it needs.
  const text = readFileSync(path, "latin1")
  const found = new Set(
    [...text.matchAll(new RegExp(`\\0${library}_([0-9.]+)(?=\\0)`, "g"))].map(
      ([, version]) => version!,
    ),
  )
  return [...found].sort(order)
}

const order = (a: string, b: string): number => {
  const [left, right] = [a, b].map((version) => version.split(".").map(Number))
  const length = Math.max(left!.length, right!.length)
  for (let index = 0; index < length; index++) {
    const difference = (left![index] ?? 0) - (right![index] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

/** The newest version that any of these files asks for. */
export const newestNeeded = (paths: ReadonlyArray<string>, library: string): string | undefined =>
  paths
    .flatMap((path) => symbolVersions(path, library))
    .sort(order)
    .at(-1)

const libraries = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder)
    .filter((name) => /^lib.*\.(so|dylib)$/.test(name))
    .map((name) => join(folder, name))

/** The base set's libraries, and its shim. */
export const baseLibraries = (): ReadonlyArray<string> => libraries(baseSet().dir)

const baseSet = () => {
  const set = librarySets().find(({ variant }) => variant === "base")
  if (set !== undefined) return set
  throw new PublishError("The base set of libraries is not installed: run 'bun install'.")
}

/**
 * Puts the shim of the base set into `folder`. It finds ggml and llama by name among the libraries that the process has
 * opened before, so that it can lie anywhere.
 *
 * @throws {PublishError}
 */
export const stageShim = async (folder: string): Promise<void> => {
  const built = await ensureShim(baseSet(), (line) => console.error(line))
  mkdirSync(folder, { recursive: true })
  for (const path of libraries(built)) {
    const target = join(folder, path.slice(built.length + 1))
    copyFileSync(path, target)
    await withoutRunPath(target)
  }
}

/** As cmake does where it installs a library. */
const withoutRunPath = async (path: string): Promise<void> => {
  const script = `${path}.cmake`
  writeFileSync(script, `file(RPATH_REMOVE FILE "${path}")\n`)
  try {
    await execute(["cmake", "-P", script])
  } finally {
    rmSync(script)
  }
}
