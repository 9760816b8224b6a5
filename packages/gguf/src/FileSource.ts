import {
  closeSync,
  openSync,
  readSync,
  type Stats,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { GgufError } from "./GgufError.ts"
import { causeText, type Source } from "./Source.ts"

/** Gives `use` a file as a source, open as long as it runs. Throws `GgufError`. */
export const withFile = <A>(path: string, use: (source: Source) => A): A => {
  const sizeBytes = regularFileBytes(path)
  const fd = openForReading(path)
  try {
    return use(new FileSource(path, fd, sizeBytes))
  } finally {
    closeSync(fd)
  }
}

class FileSource implements Source {
  readonly location: string
  readonly sizeBytes: number
  readonly #fd: number

  constructor(path: string, fd: number, sizeBytes: number) {
    this.location = path
    this.sizeBytes = sizeBytes
    this.#fd = fd
  }

  get name(): string {
    return this.location
  }

  read(target: Uint8Array, offsetBytes: number): number {
    try {
      return readSync(this.#fd, target, 0, target.byteLength, offsetBytes)
    } catch (cause) {
      throw new GgufError({
        path: this.location,
        reason: "unreadable",
        message: `${this.location} cannot be read (${causeText(cause)}); check the disk`,
      })
    }
  }
}

/** Writes a file of `sizeBytes` whose bytes behind `start` take no room on the disk, and read as zeros. */
export const writeWithHole = (path: string, start: Uint8Array, sizeBytes: number): void => {
  try {
    writeFileSync(path, start)
    truncateSync(path, sizeBytes)
  } catch (cause) {
    throw unwritable(path, cause)
  }
}

const TRIED_BYTES = 1024 * 1024

/**
 * Writes a small hole, and says whether it takes no room: on some file systems (FAT, HFS+) holes are written as zeros. Throws `GgufError`.
 */
export const canHaveHoles = (path: string): boolean => {
  writeWithHole(path, new Uint8Array(0), TRIED_BYTES)
  return statOf(path).blocks * 512 < TRIED_BYTES
}

export const unwritable = (path: string, cause: unknown): GgufError =>
  new GgufError({
    path,
    reason: "unwritable",
    message: `${path} cannot be written (${causeText(cause)}); check the folder and the free disk space`,
  })

/** Asked before opening: opening a named pipe would wait for its writer. */
const regularFileBytes = (path: string): number => {
  const stats = statOf(path)
  if (stats.isFile()) return stats.size
  const kind = stats.isDirectory() ? "a directory" : "not a regular file"
  throw new GgufError({
    path,
    reason: "unreadable",
    message: `${path} is ${kind}; give the path of a .gguf file`,
  })
}

const statOf = (path: string): Stats => {
  try {
    return statSync(path)
  } catch (cause) {
    throw openFailure(path, cause)
  }
}

const openForReading = (path: string): number => {
  try {
    return openSync(path, "r")
  } catch (cause) {
    throw openFailure(path, cause)
  }
}

const openFailure = (path: string, cause: unknown): GgufError => {
  const code = causeText(cause)
  const missing = code === "ENOENT" || code === "ENOTDIR"
  return new GgufError({
    path,
    reason: missing ? "missing" : "unreadable",
    message: missing
      ? `There is no file '${path}'; check the path`
      : `${path} cannot be opened (${code}); check its permissions`,
  })
}
