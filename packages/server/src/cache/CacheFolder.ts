import {
  constants,
  fstatSync,
  openSync,
  readdirSync,
  statfsSync,
  statSync,
  unlinkSync,
} from "node:fs"
import { join } from "node:path"
import { io } from "@ggml-rpc/native/bindings"
import { attempt } from "./files.ts"

/** A file of the cache. */
export interface CacheEntry {
  /** 16 lower-case hex digits: the FNV-1a-64 of its bytes. */
  readonly name: string
  readonly sizeBytes: number
  /** When it was stored or served last, in milliseconds since 1970. */
  readonly usedAtMs: number
}

/** A file that is being written: a dot, the writer, and this. */
export const PART = ".part"

/** Of files and folders here, whatever the umask leaves to others: what they may write into is not mapped. */
export const FILE_MODE = 0o644
export const FOLDER_MODE = 0o755

/** Landlock's version from which a process may be kept from changing files that it may remove, and move to their place. */
export const SEALING_LANDLOCK = 3

/** What the names of folders begin with in which files are written. Each user has one: another's could not be written. */
const PARTS = ".parts-"

/**
 * Where files are written, before they are moved into the cache: a folder of its own where a process can be kept from writing into
 * finished files, since it is by its folder that it may write a file. Not to be asked from inside the sandbox.
 */
export const partsFolder = (folder: string): string =>
  io().io_landlock_abi() >= SEALING_LANDLOCK
    ? join(folder, `${PARTS}${process.getuid?.()}`)
    : folder

/** Whether this user alone may write into a file or folder. */
export const isOnlyOurs = ({ uid, mode }: { uid: bigint; mode: bigint }): boolean =>
  Number(uid) === process.getuid?.() && (mode & 0o022n) === 0n

/**
 * Whether files of the folder may be mapped, so that a client's tensors had better begin with a page: neither other users nor, in
 * a sandbox, session processes can write into them. Not to be asked from inside the sandbox.
 */
export const maySealFiles = (folder: string): boolean => {
  const stats = attempt(() => statSync(folder, { bigint: true }))
  return partsFolder(folder) !== folder && stats !== undefined && isOnlyOurs(stats)
}

/** A part that nobody has written to for so long belongs to a process that was ended. */
const PART_AGE_MS = 600_000

const NAME = /^[0-9a-f]{16}$/

/** What the folder takes of a disk unless somebody says: a tenth of what is free. */
const FREE_SHARE = 0.1

/**
 * Opens a file of the cache to read it. Undefined where there is none, and for what bears its name and is no file: a FIFO would
 * keep whoever opens it waiting for a writer.
 *
 * @internal
 */
export const openEntry = (folder: string, name: string) => {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK
  const descriptor = attempt(() => openSync(join(folder, name), flags))
  if (descriptor === undefined) return undefined
  return { descriptor, stats: attempt(() => fstatSync(descriptor, { bigint: true })) }
}

/** The files of a cache, least recently used first; none where there is no folder. */
export const listEntries = (folder: string): CacheEntry[] => {
  const entries: CacheEntry[] = []
  for (const name of attempt(() => readdirSync(folder)) ?? []) {
    if (!NAME.test(name)) continue
    const stats = attempt(() => statSync(join(folder, name)))
    if (stats === undefined || !stats.isFile()) continue
    const { size: sizeBytes, atimeMs, mtimeMs } = stats
    entries.push({ name, sizeBytes, usedAtMs: Math.max(atimeMs, mtimeMs) })
  }
  return entries.sort((a, b) => a.usedAtMs - b.usedAtMs)
}

export const sizeOf = (entries: readonly CacheEntry[]): number =>
  entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)

/**
 * Removes files, least recently used first, until the rest is at most `limitBytes`, but none of `kept`. Returns how many bytes
 * are left, which may be more.
 */
export const shrinkTo = (
  folder: string,
  limitBytes: number,
  kept: ReadonlySet<string> = new Set(),
): number => {
  const entries = listEntries(folder)
  let left = sizeOf(entries)
  for (const { name, sizeBytes } of entries) {
    if (left <= limitBytes) return left
    if (kept.has(name)) continue
    if (isRemoved(join(folder, name))) left -= sizeBytes
  }
  return left
}

export const isRemoved = (path: string): boolean =>
  attempt(() => {
    unlinkSync(path)
    return true
  }) ?? false

/** Removes what processes that were ended in the middle of writing have left; how many files that was. */
export const removeStaleParts = (folder: string): number => {
  const oldest = Date.now() - PART_AGE_MS
  let count = 0
  const namesIn = (place: string): readonly string[] => attempt(() => readdirSync(place)) ?? []
  const folders = namesIn(folder).filter((name) => name.startsWith(PARTS))
  const paths = [folder, ...folders.map((name) => join(folder, name))].flatMap((place) =>
    namesIn(place)
      .filter((name) => name.startsWith(".") && name.endsWith(PART))
      .map((name) => join(place, name)),
  )
  for (const path of paths) {
    attempt(() => {
      if (statSync(path).mtimeMs >= oldest) return
      unlinkSync(path)
      count++
    })
  }
  return count
}

/**
 * How large a folder may get when nobody says: a tenth of what it and the disk's free space are together, and never less than
 * it is, which may be what another program keeps there.
 */
export const standardLimit = (folder: string): number => {
  const used = sizeOf(listEntries(folder))
  const disk = attempt(() => statfsSync(folder))
  const free = disk === undefined ? 0 : disk.bavail * disk.bsize
  return Math.max(used, Math.floor((used + free) * FREE_SHARE))
}
