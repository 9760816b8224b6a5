/**
 * The bundle: program.ts and all it imports in a few files, and a file each for the processes that it starts. Effect and its
 * packages are some 300 small files, which take 0.15 s to find and read; engine and session are 100 each, which take 15 ms.
 *
 * scripts/bundle.ts makes it (`bun run setup`, or npm before it packs). Sources that changed since are used
 * instead of it, so that nothing has to be built after an edit.
 */
import { readFileSync, statSync } from "node:fs"
import { join, sep } from "node:path"

const packageFolder = join(import.meta.dir, "..")

export const bundlePath = join(packageFolder, "build", "program.js")
/** A {@link Manifest}, written after the bundle. */
export const manifestPath = join(packageFolder, "build", "program.json")

export interface Manifest {
  /** When the bundle's making began, in milliseconds since 1970. */
  readonly startedMs: number
  /** What it was made of, but for the packages of others: paths from this package's folder. */
  readonly inputs: ReadonlyArray<string>
}

/** Whether this is a package that somebody installed: its sources are dated then, and nobody edits them. */
const isInstalled = packageFolder.includes(`${sep}node_modules${sep}`)

/** Path of the bundle, if there is one and none of its sources is newer. */
export const freshBundle = (): string | undefined => {
  try {
    const manifest = JSON.parse(readFileSync(manifestPath, "utf8")) as Manifest
    return isInstalled || isUpToDate(manifest, packageFolder) ? bundlePath : undefined
  } catch {
    // There is none, or no readable one.
    return undefined
  }
}

/** Whether every input, looked up from `folder`, is there and older than the bundle. */
export const isUpToDate = ({ startedMs, inputs }: Manifest, folder: string): boolean =>
  inputs.every((input) => {
    const file = statSync(join(folder, input), { throwIfNoEntry: false })
    return file !== undefined && file.mtimeMs <= startedMs
  })
