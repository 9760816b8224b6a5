import { closeSync, constants, fstatSync, openSync, readdirSync, statSync } from "node:fs"
import { join, sep } from "node:path"
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

/** The index and the models in it are looked at again, at most so often. */
const LOOK_INTERVAL_MS = 1000

/**
 * Weights in models of this machine, by their hashes: what the front process found out and wrote into a folder that a session process
 * can only read. A file is only taken for what was hashed while nothing about it has changed since.
 */
export class ModelIndex {
  readonly #folder: string
  readonly #served: readonly string[]
  /** By their hashes: a model may be there several times, or have been. */
  #weights = new Map<string, IndexedWeight[]>()
  /** What files are like that are as they were hashed, by their path. */
  #present = new Map<string, string>()
  /** The files of the index as they were read. */
  #seen = ""
  #lookedAt = Number.NEGATIVE_INFINITY

  /** `folder`: where the index is; `served`: the folders of models that are given to clients, without links. */
  constructor(folder: string, served: readonly string[]) {
    this.#folder = folder
    this.#served = served.map((path) => (path.endsWith(sep) ? path : path + sep))
  }

  /** The weight of these halves of a hash, if a model has one. */
  open(high: number, low: number): CachedFile | undefined {
    this.#look()
    for (const weight of this.#weights.get(hexName(high, low)) ?? []) {
      const { path, state } = weight.source
      const file = this.#present.get(path) === state ? openWeight(weight, high, low) : undefined
      if (file !== undefined) return file
    }
    return undefined
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
    if (seen !== this.#seen) {
      this.#seen = seen
      this.#read()
    }
    for (const path of this.#present.keys()) {
      const stats = attempt(() => statSync(path, { bigint: true }))
      this.#present.set(path, stats === undefined ? "" : fileState(stats))
    }
  }

  #read(): void {
    this.#weights = new Map()
    this.#present = new Map()
    for (const hashes of WeightHashes.all(this.#folder)) {
      for (const { high, low, part, offsetBytes, sizeBytes, slice } of hashes.all().values()) {
        const source = hashes.sources[part]
        // What a slice hashes to need not lie in one piece.
        if (slice !== undefined || source === undefined || !this.#isServed(source.path)) continue
        this.#present.set(source.path, "")
        const name = hexName(high, low)
        const weight = { source, offsetBytes, sizeBytes }
        const others = this.#weights.get(name)
        if (others === undefined) this.#weights.set(name, [weight])
        else others.push(weight)
      }
    }
  }

  #isServed(path: string): boolean {
    return this.#served.some((folder) => path.startsWith(folder))
  }
}

/** Undefined where the file is not what was hashed any more. */
const openWeight = (
  { source, offsetBytes, sizeBytes }: IndexedWeight,
  high: number,
  low: number,
): CachedFile | undefined => {
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
