import { toArrayBuffer } from "bun:ffi"
import {
  closeSync,
  fstatSync,
  futimesSync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  unlinkSync,
} from "node:fs"
import { join } from "node:path"
import { type Address, asPointer, formatBytes, io } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import { FILE_MODE, FOLDER_MODE, isOnlyOurs, openEntry, PART, shrinkTo } from "./CacheFolder.ts"
import { attempt, readAll, writeAll } from "./files.ts"
import { keyOf, type VerifiedFiles } from "./VerifiedFiles.ts"

/** Native memory is looked at through windows of this size: one ArrayBuffer has a size limit. */
const WINDOW_BYTES = 64 * 1024 * 1024

/** How long what others have written meanwhile need not be known. */
const LOOK_INTERVAL_MS = 1000

/** A file's last use is noted when the note is older than this: each changes what `VerifiedFiles` knows it by. */
const USE_PRECISION_MS = 60_000

/** The bytes at a native address; at most a window's. */
const windowAt = (address: Address, sizeBytes: number): Uint8Array =>
  new Uint8Array(toArrayBuffer(asPointer(address), 0, sizeBytes))

/** @internal */
export const hexName = (high: number, low: number): string =>
  high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0")

/** Data of a known hash and size, open: a file of the cache, or part of a model. */
export interface CachedFile {
  readonly sizeBytes: number
  /** Whether its bytes are known to hash to its name. */
  readonly isVerified: boolean
  /** The hash by its name. */
  readonly high: number
  readonly low: number
  /**
   * Puts all of it at a native address that the host can write; false when it cannot be read, or changed since it was opened. Where
   * the memory is this process's own, pages of it may be the file itself from then on, and are copied when they are written.
   */
  readonly fill: (address: Address, isOwn: boolean) => boolean
  /** The same in pieces of at most `pieceBytes`: `target` says where one goes, `stored` is told that it is there. */
  readonly fillPieces: (
    pieceBytes: number,
    target: (offsetBytes: number, sizeBytes: number) => Address,
    stored: (offsetBytes: number, sizeBytes: number) => void,
  ) => boolean
  /** It was served: its bytes hash to its name. */
  readonly confirm: () => void
  readonly close: () => void
}

/**
 * Reads part of a file as `CachedFile.fillPieces` does; false when it ends before.
 *
 * @internal
 */
export const fillInPieces = (
  descriptor: number,
  start: number,
  sizeBytes: number,
  pieceBytes: number,
  target: (offsetBytes: number, sizeBytes: number) => Address,
  stored: (offsetBytes: number, sizeBytes: number) => void,
  hash?: Fnv1a64,
): boolean => {
  for (let offset = 0; offset < sizeBytes; ) {
    const part = Math.min(sizeBytes - offset, pieceBytes, WINDOW_BYTES)
    const bytes = windowAt(target(offset, part), part)
    if (!readAll(descriptor, bytes, start + offset)) return false
    hash?.update(bytes)
    stored(offset, part)
    offset += part
  }
  return true
}

/** Takes one file for the cache in pieces; it appears whole, under the name its bytes give it. */
export interface CacheWriter {
  readonly write: (address: Address, sizeBytes: number) => void
  readonly finish: () => void
  /** Removes what there is of the file, unless it is finished. */
  readonly abandon: () => void
}

export interface CacheOptions {
  readonly folder: string
  /** See `partsFolder`. */
  readonly partsFolder: string
  /** Whether nobody else can write into files of the folder that are finished; see `maySealFiles`. */
  readonly isSealed: boolean
  readonly verified: VerifiedFiles
  /** Least recently used files go when the others and a new one are larger together. */
  readonly limitBytes: number
  /** Smaller data is not stored. */
  readonly minBytes: number
  /** Told why something was not stored. */
  readonly onProblem: (reason: string) => void
}

/**
 * The folder of tensor data that upstream's rpc-server uses too; ggml-rpc.cpp `set_tensor_hash` (7.0.0).
 * A file is named by the FNV-1a-64 of its bytes: 16 lower-case hex digits.
 *
 * Upstream writes files in place, and disks fail: a file is only served when its bytes hash to its name.
 * What cannot be read or written is as good as not cached; nothing here throws for that.
 */
export class Cache {
  readonly #options: CacheOptions
  readonly #folder: string
  readonly #verified: VerifiedFiles
  /** What this client's models are made of. Files of it that made room for others of it would be gone when it comes back. */
  readonly #inUse = new Set<string>()
  #serial = 0
  /** Bytes that fit without others going, as of the last look at the folder; others may have written since. */
  #room = 0
  #lookedAt = Number.NEGATIVE_INFINITY

  constructor(options: CacheOptions) {
    this.#options = options
    this.#folder = options.folder
    this.#verified = options.verified
  }

  /** Whether data of this size is stored. */
  takes(sizeBytes: number): boolean {
    return sizeBytes >= this.#options.minBytes
  }

  /** The file that is named by these halves of a hash, if there is one. */
  open(high: number, low: number): CachedFile | undefined {
    const name = hexName(high, low)
    const entry = openEntry(this.#folder, name)
    if (entry === undefined) return undefined
    const { descriptor, stats } = entry
    const close = (): void => closeSync(descriptor)
    const sizeBytes = Number(stats?.size ?? 0)
    if (stats === undefined || !stats.isFile() || sizeBytes === 0) {
      close()
      return undefined
    }
    const key = keyOf(name, stats)
    const isVerified = this.#verified.has(key)
    // Changed while it was read: then it was not the file that had been verified.
    const isSame = (): boolean => keyOf(name, fstatSync(descriptor, { bigint: true })) === key
    return {
      ...{ sizeBytes, isVerified, high, low, close },
      fill: (address, isOwn) => {
        const { io_map_file, io_read_file } = io()
        const mayMap = isOwn && this.#options.isSealed && isOnlyOurs(stats)
        const bring = mayMap ? io_map_file : io_read_file
        return bring(descriptor, asPointer(address), 0, sizeBytes) === sizeBytes && isSame()
      },
      fillPieces: (pieceBytes, target, stored) => {
        const hash = isVerified ? undefined : new Fnv1a64()
        if (!fillInPieces(descriptor, 0, sizeBytes, pieceBytes, target, stored, hash)) return false
        const isRight = hash === undefined || (hash.digestHi() === high && hash.digestLo() === low)
        return isRight && isSame()
      },
      confirm: () => {
        // What is in it now nobody has hashed.
        if (!isSame()) return
        this.#inUse.add(name)
        if (this.#noteUse(descriptor) || !isVerified) this.#addVerified(name, descriptor)
      },
    }
  }

  /** Stores the bytes at a native address. */
  store(address: Address, sizeBytes: number): void {
    const hash = new Fnv1a64()
    for (let offset = 0; offset < sizeBytes; offset += WINDOW_BYTES) {
      hash.update(windowAt(address + offset, Math.min(sizeBytes - offset, WINDOW_BYTES)))
    }
    if (this.#isThere(hash.digestHex(), sizeBytes)) return
    const file = this.#create(sizeBytes)
    for (let offset = 0; offset < sizeBytes; offset += WINDOW_BYTES) {
      file.append(windowAt(address + offset, Math.min(sizeBytes - offset, WINDOW_BYTES)))
    }
    file.publish(hash.digestHex())
  }

  /** For `sizeBytes` that are never together in memory. */
  writer(sizeBytes: number): CacheWriter {
    const hash = new Fnv1a64()
    const file = this.#create(sizeBytes)
    return {
      write: (address, partBytes) => {
        const bytes = windowAt(address, partBytes)
        hash.update(bytes)
        file.append(bytes)
      },
      finish: () => file.publish(hash.digestHex()),
      abandon: file.abandon,
    }
  }

  /** Whether the time of the last use was written into the file, so that it has another key now. */
  #noteUse(descriptor: number): boolean {
    return (
      attempt(() => {
        const { atimeMs, mtimeMs, mtime } = fstatSync(descriptor)
        if (Date.now() - Math.max(atimeMs, mtimeMs) < USE_PRECISION_MS) return false
        futimesSync(descriptor, new Date(), mtime)
        return true
      }) ?? false
    )
  }

  #addVerified(name: string, descriptor: number): void {
    this.#verified.add(keyOf(name, fstatSync(descriptor, { bigint: true })))
  }

  #isThere(name: string, sizeBytes: number): boolean {
    const stats = attempt(() => statSync(join(this.#folder, name), { bigint: true }))
    if (stats === undefined || Number(stats.size) !== sizeBytes) return false
    return this.#verified.has(keyOf(name, stats))
  }

  /** Why there is no room for so much, if there is none. */
  #makeRoom(sizeBytes: number): string | undefined {
    const { limitBytes } = this.#options
    const limit = `the limit of ${formatBytes(limitBytes)} (--cache-size)`
    if (sizeBytes > limitBytes) return `a weight of ${formatBytes(sizeBytes)} is above ${limit}`
    // To look at all files for each would take longer than to write them.
    const now = performance.now()
    if (now - this.#lookedAt < LOOK_INTERVAL_MS && sizeBytes <= this.#room) {
      this.#room -= sizeBytes
      return undefined
    }
    this.#lookedAt = now
    const left = shrinkTo(this.#folder, limitBytes - sizeBytes, this.#inUse)
    this.#room = limitBytes - sizeBytes - left
    if (this.#room >= 0) return undefined
    return `a client's weights are more than ${limit}`
  }

  /** A file under a temporary name, which `publish` replaces by its own. */
  #create(sizeBytes: number) {
    const { partsFolder } = this.#options
    let problem = this.#makeRoom(sizeBytes)
    const temporary = join(partsFolder, `.${process.pid}-${this.#serial++}${PART}`)
    let descriptor: number | undefined
    const trying = (action: () => void): void => {
      if (problem !== undefined) return
      try {
        action()
      } catch (error) {
        problem = error instanceof Error ? error.message : String(error)
      }
    }
    trying(() => {
      mkdirSync(partsFolder, { recursive: true, mode: FOLDER_MODE })
      descriptor = openSync(temporary, "wx", FILE_MODE)
    })
    const append = (bytes: Uint8Array): void => trying(() => writeAll(descriptor!, bytes))
    const close = (): void => {
      const file = descriptor
      descriptor = undefined
      if (file !== undefined) attempt(() => closeSync(file))
    }
    const abandon = (): void => {
      if (descriptor === undefined) return
      attempt(() => unlinkSync(temporary))
      close()
    }
    const publish = (name: string): void => {
      trying(() => {
        renameSync(temporary, join(this.#folder, name))
        this.#inUse.add(name)
        this.#addVerified(name, descriptor!)
        close()
      })
      if (problem === undefined) return
      abandon()
      this.#options.onProblem(problem)
    }
    return { append, publish, abandon }
  }
}
