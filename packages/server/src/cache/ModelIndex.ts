import { closeSync, constants, fstatSync, openSync, readdirSync, statSync } from "node:fs"
import { join } from "node:path"
import {
  asPointer,
  fileState,
  io,
  WeightHashes,
  type WeightSource,
} from "@ggml-rpc/native/bindings"
import { type CachedFile, fillInPieces, hexName } from "./Cache.ts"
import { attempt } from "./files.ts"

/** Where a weight lies on this machine. */
interface IndexedWeight {
  readonly source: WeightSource
  readonly offsetBytes: number
  readonly sizeBytes: number
}

/** The index is looked at again for what was added to it, at most so often. */
const LOOK_INTERVAL_MS = 1000

/**
 * Weights in models of this machine, by their hashes: what the front process found out and wrote into a folder that a session process
 * can only read. A file is only taken for what was hashed while nothing about it has changed since.
 */
export class ModelIndex {
  readonly #folder: string
  #weights = new Map<string, IndexedWeight>()
  /** The files of the index as they were read. */
  #seen = ""
  #lookedAt = Number.NEGATIVE_INFINITY

  /** `folder`: where the index is. */
  constructor(folder: string) {
    this.#folder = folder
  }

  /** The weight of these halves of a hash, if a model has one. */
  open(high: number, low: number): CachedFile | undefined {
    this.#look()
    const weight = this.#weights.get(hexName(high, low))
    if (weight === undefined) return undefined
    const { source, offsetBytes, sizeBytes } = weight
    const flags = constants.O_RDONLY | constants.O_NONBLOCK
    const descriptor = attempt(() => openSync(source.path, flags))
    if (descriptor === undefined) return undefined
    const isSame = (): boolean => {
      const stats = attempt(() => fstatSync(descriptor, { bigint: true }))
      return stats?.isFile() === true && fileState(stats) === source.state
    }
    if (!isSame()) {
      closeSync(descriptor)
      return undefined
    }
    return {
      ...{ sizeBytes, high, low, isVerified: true },
      fill: (address) =>
        io().io_read_file(descriptor, asPointer(address), offsetBytes, sizeBytes) === sizeBytes &&
        isSame(),
      fillPieces: (pieceBytes, target, stored) =>
        fillInPieces(descriptor, offsetBytes, sizeBytes, pieceBytes, target, stored) && isSame(),
      confirm: () => {},
      close: () => closeSync(descriptor),
    }
  }

  #look(): void {
    const now = performance.now()
    if (now - this.#lookedAt < LOOK_INTERVAL_MS) return
    this.#lookedAt = now
    const seen = (attempt(() => readdirSync(this.#folder)) ?? [])
      .map((name) => {
        const stats = attempt(() => statSync(join(this.#folder, name)))
        return `${name} ${stats?.size} ${stats?.mtimeMs}`
      })
      .join("\n")
    if (seen === this.#seen) return
    this.#seen = seen
    this.#weights = new Map()
    for (const hashes of WeightHashes.all(this.#folder)) {
      for (const { high, low, part, offsetBytes, sizeBytes } of hashes.all().values()) {
        const source = hashes.sources[part]
        if (source === undefined) continue
        this.#weights.set(hexName(high, low), { source, offsetBytes, sizeBytes })
      }
    }
  }
}
