import { toArrayBuffer } from "bun:ffi"
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
  unlinkSync,
} from "node:fs"
import { join } from "node:path"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import { attempt, readAll, writeAll } from "./files.ts"
import { keyOf, type VerifiedFiles } from "./VerifiedFiles.ts"

/** Native memory is looked at through windows of this size: one ArrayBuffer has a size limit. */
const WINDOW_BYTES = 64 * 1024 * 1024

/** The bytes at a native address; at most a window's. */
const windowAt = (address: Address, sizeBytes: number): Uint8Array =>
  new Uint8Array(toArrayBuffer(asPointer(address), 0, sizeBytes))

const hexName = (high: number, low: number): string =>
  high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0")

/** A file of the cache, open. */
export interface CachedFile {
  readonly sizeBytes: number
  /**
   * Gives the bytes in order, in pieces of at most `pieceBytes`, to be stored at once: `target` says where a
   * piece goes, `stored` is told that it is there. False when the bytes turn out not to hash to the name;
   * what was stored is worthless then.
   */
  readonly read: (
    pieceBytes: number,
    target: (offsetBytes: number, sizeBytes: number) => Address,
    stored: (offsetBytes: number, sizeBytes: number) => void,
  ) => boolean
  readonly close: () => void
}

/** Takes one file for the cache in pieces; it appears whole, under the name its bytes give it. */
export interface CacheWriter {
  readonly write: (address: Address, sizeBytes: number) => void
  readonly finish: () => void
  /** Removes what there is of the file, unless it is finished. */
  readonly abandon: () => void
}

/** A file that is being written ends in this. */
const PART = ".part"

/** A part that nobody has written to for so long belongs to a process that was ended. */
const PART_AGE_MS = 600_000

/** Removes what processes that were ended in the middle of writing have left in a cache's folder. */
export const removeStaleParts = (folder: string): void => {
  const oldest = Date.now() - PART_AGE_MS
  for (const name of attempt(() => readdirSync(folder)) ?? []) {
    if (!name.startsWith(".") || !name.endsWith(PART)) continue
    const path = join(folder, name)
    attempt(() => {
      if (statSync(path).mtimeMs < oldest) unlinkSync(path)
    })
  }
}

/**
 * The folder of tensor data that upstream's rpc-server uses too; ggml-rpc.cpp `set_tensor_hash` (7.0.0).
 * A file is named by the FNV-1a-64 of its bytes: 16 lower-case hex digits.
 *
 * Upstream writes files in place, and disks fail: a file is only served when its bytes hash to its name.
 * What cannot be read or written is as good as not cached; nothing here throws for that.
 */
export class Cache {
  readonly #folder: string
  readonly #verified: VerifiedFiles
  #serial = 0

  constructor(folder: string, verified: VerifiedFiles) {
    this.#folder = folder
    this.#verified = verified
  }

  /** The file that is named by these halves of a hash, if there is one. */
  open(high: number, low: number): CachedFile | undefined {
    const name = hexName(high, low)
    const descriptor = attempt(() => openSync(join(this.#folder, name), "r"))
    if (descriptor === undefined) return undefined
    const close = (): void => closeSync(descriptor)
    const stats = attempt(() => fstatSync(descriptor, { bigint: true }))
    const sizeBytes = Number(stats?.size ?? 0)
    if (stats === undefined || !stats.isFile() || sizeBytes === 0) {
      close()
      return undefined
    }
    const key = keyOf(name, stats)
    const read: CachedFile["read"] = (pieceBytes, target, stored) => {
      const hash = this.#verified.has(key) ? undefined : new Fnv1a64()
      for (let offset = 0; offset < sizeBytes; ) {
        const part = Math.min(sizeBytes - offset, pieceBytes, WINDOW_BYTES)
        const bytes = windowAt(target(offset, part), part)
        if (!readAll(descriptor, bytes, offset)) return false
        hash?.update(bytes)
        stored(offset, part)
        offset += part
      }
      // Changed while it was read: then it was not the file that had been verified.
      const isSame = keyOf(name, fstatSync(descriptor, { bigint: true })) === key
      if (hash === undefined) return isSame
      if (hash.digestHi() !== high || hash.digestLo() !== low) return false
      if (isSame) this.#verified.add(key)
      return true
    }
    return { sizeBytes, read, close }
  }

  /** Stores the bytes at a native address. */
  store(address: Address, sizeBytes: number): void {
    const hash = new Fnv1a64()
    for (let offset = 0; offset < sizeBytes; offset += WINDOW_BYTES) {
      hash.update(windowAt(address + offset, Math.min(sizeBytes - offset, WINDOW_BYTES)))
    }
    if (this.#isThere(hash.digestHex(), sizeBytes)) return
    const file = this.#create()
    for (let offset = 0; offset < sizeBytes; offset += WINDOW_BYTES) {
      file.append(windowAt(address + offset, Math.min(sizeBytes - offset, WINDOW_BYTES)))
    }
    file.publish(hash.digestHex())
  }

  /** For bytes that are never together in memory. */
  writer(): CacheWriter {
    const hash = new Fnv1a64()
    const file = this.#create()
    return {
      write: (address, sizeBytes) => {
        const bytes = windowAt(address, sizeBytes)
        hash.update(bytes)
        file.append(bytes)
      },
      finish: () => file.publish(hash.digestHex()),
      abandon: file.abandon,
    }
  }

  #isThere(name: string, sizeBytes: number): boolean {
    const stats = attempt(() => statSync(join(this.#folder, name), { bigint: true }))
    if (stats === undefined || Number(stats.size) !== sizeBytes) return false
    return this.#verified.has(keyOf(name, stats))
  }

  /** A file under a temporary name, which `publish` replaces by its own. */
  #create() {
    const temporary = join(this.#folder, `.${process.pid}-${this.#serial++}${PART}`)
    let descriptor = attempt(() => {
      mkdirSync(this.#folder, { recursive: true })
      return openSync(temporary, "wx")
    })
    let isWhole = true
    const append = (bytes: Uint8Array): void => {
      const file = descriptor
      if (file === undefined || !isWhole) return
      isWhole = attempt(() => writeAll(file, bytes)) ?? false
    }
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
      const file = descriptor
      if (file === undefined) return
      const renamed =
        isWhole &&
        attempt(() => {
          renameSync(temporary, join(this.#folder, name))
          this.#verified.add(keyOf(name, fstatSync(file, { bigint: true })))
          return true
        })
      if (renamed) close()
      else abandon()
    }
    return { append, publish, abandon }
  }
}
