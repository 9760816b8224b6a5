/** What an executable carries, put on the disk once, since the system loads libraries from files alone. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { dirname, join } from "node:path"
import { gunzipSync } from "node:zlib"

/** A file that is carried. */
export interface CarriedFile {
  /** Path in the folder. */
  readonly name: string
  /** Of the unpacked bytes, as hexadecimal digits. */
  readonly sha256: string
  readonly sizeBytes: number
  /** The bytes as they are carried, gzipped. */
  readonly read: () => Promise<Uint8Array<ArrayBuffer>>
}

/** It could not be unpacked; the message says where and what to do. */
export class UnpackError extends Error {
  readonly _tag = "UnpackError"
}

const sha256 = (text: string | Uint8Array): string =>
  new Bun.CryptoHasher("sha256").update(text).digest("hex")

/** Another content gets another folder: what programs that run have opened stays as it is. */
const folderName = (files: ReadonlyArray<CarriedFile>): string =>
  `unpacked-${sha256(files.map(({ name, sha256: sum }) => `${name} ${sum}`).join("\n")).slice(0, 16)}`

const isWhole = (folder: string, files: ReadonlyArray<CarriedFile>): boolean =>
  files.every(({ name, sizeBytes }) => sizeOf(join(folder, name)) === sizeBytes)

const sizeOf = (path: string): number | undefined => {
  try {
    return statSync(path).size
  } catch {
    return undefined
  }
}

/**
 * Returns the folder in `cache` that holds the files. They are written at the first call, each checked against its checksum;
 * later calls look at the sizes. Several processes may do this at once: folders only ever appear whole.
 *
 * @throws {UnpackError}
 */
export const unpack = async (cache: string, files: ReadonlyArray<CarriedFile>): Promise<string> => {
  const folder = join(cache, folderName(files))
  if (isWhole(folder, files)) return folder
  try {
    mkdirSync(cache, { recursive: true, mode: 0o700 })
    const work = mkdtempSync(join(cache, ".unpack-"))
    try {
      for (const file of files) await write(file, join(work, "new", file.name))
      if (existsSync(folder)) renameSync(folder, join(work, "damaged"))
      renameSync(join(work, "new"), folder)
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
  } catch (error) {
    // Somebody was faster.
    if (isWhole(folder, files)) return folder
    throw error instanceof UnpackError
      ? error
      : new UnpackError(
          `The libraries in this executable cannot be unpacked to ${cache} (${error instanceof Error ? error.message : String(error)}): free that folder, or name another with XDG_CACHE_HOME.`,
        )
  }
  return folder
}

const write = async (file: CarriedFile, path: string): Promise<void> => {
  const bytes = gunzipSync(await file.read())
  if (sha256(bytes) !== file.sha256) {
    throw new UnpackError(
      `${file.name} in this executable has another checksum than it was built with: the executable is damaged, download it again.`,
    )
  }
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, bytes, { mode: 0o755 })
}
