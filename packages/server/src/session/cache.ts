import { ptr, toArrayBuffer } from "bun:ffi"
import { closeSync, mkdirSync, openSync, renameSync, unlinkSync, writeSync } from "node:fs"
import { join } from "node:path"
import { type Address, asPointer, cString, io } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"

/** Native memory is looked at through windows of this size: one ArrayBuffer has a size limit. */
const WINDOW_BYTES = 64 * 1024 * 1024

const hexName = (high: number, low: number): string =>
  (high >>> 0).toString(16).padStart(8, "0") + (low >>> 0).toString(16).padStart(8, "0")

/** Calls `use` with the bytes at a native address, piece by piece. */
const eachWindow = (
  address: Address,
  sizeBytes: number,
  use: (bytes: Uint8Array) => void,
): void => {
  for (let done = 0; done < sizeBytes; ) {
    const part = Math.min(sizeBytes - done, WINDOW_BYTES)
    use(new Uint8Array(toArrayBuffer(asPointer(address + done), 0, part)))
    done += part
  }
}

/** A cached file, mapped; `close` unmaps it. */
export interface CachedFile {
  readonly address: Address
  readonly sizeBytes: number
  readonly close: () => void
}

/** Writes one file of the cache in pieces; it appears whole, under the name its bytes give it. */
export interface CacheWriter {
  readonly write: (bytes: Uint8Array) => void
  readonly finish: () => void
}

/**
 * The folder of tensor data that upstream's rpc-server uses too; ggml-rpc.cpp `set_tensor_hash` (7.0.0).
 * A file is named by the FNV-1a-64 of its bytes: 16 lower-case hex digits.
 *
 * Upstream writes files in place, so a file may be half there: it is only served when its bytes hash to
 * its name. What cannot be read or written is as good as not cached; nothing here throws for that.
 */
export class Cache {
  readonly #folder: string
  readonly #mapSize = new Float64Array(1)
  readonly #mapError = new Int32Array(1)
  #serial = 0

  constructor(folder: string) {
    this.#folder = folder
  }

  /** The file whose bytes hash to these halves, or undefined when there is none that does. */
  open(high: number, low: number): CachedFile | undefined {
    const path = join(this.#folder, hexName(high, low))
    const address = io().io_map_file(
      cString(path),
      asPointer(ptr(this.#mapSize) as number),
      asPointer(ptr(this.#mapError) as number),
    ) as Address
    if (!address) return undefined
    const sizeBytes = this.#mapSize[0]!
    const close = (): void => io().io_unmap_file(asPointer(address), sizeBytes)
    const hash = new Fnv1a64()
    eachWindow(address, sizeBytes, (bytes) => hash.update(bytes))
    if (hash.digestHi() === high && hash.digestLo() === low) return { address, sizeBytes, close }
    close()
    return undefined
  }

  /** Stores bytes at a native address. */
  store(address: Address, sizeBytes: number): void {
    const writer = this.writer()
    eachWindow(address, sizeBytes, writer.write)
    writer.finish()
  }

  /** Starts a file. */
  writer(): CacheWriter {
    const temporary = join(this.#folder, `.${process.pid}-${this.#serial++}.part`)
    const hash = new Fnv1a64()
    const file = attempt(() => {
      mkdirSync(this.#folder, { recursive: true })
      return openSync(temporary, "wx")
    })
    let isWhole = file !== undefined
    return {
      write: (bytes) => {
        if (!isWhole || file === undefined) return
        hash.update(bytes)
        isWhole = attempt(() => writeAll(file, bytes)) ?? false
      },
      finish: () => {
        if (file === undefined) return
        attempt(() => closeSync(file))
        const renamed =
          isWhole &&
          attempt(() => {
            renameSync(temporary, join(this.#folder, hash.digestHex()))
            return true
          })
        if (!renamed) attempt(() => unlinkSync(temporary))
      },
    }
  }
}

const writeAll = (file: number, bytes: Uint8Array): true => {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done)
  return true
}

/** The cache is an optimisation: a full disk or a forbidden folder must not end a session. */
const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}
