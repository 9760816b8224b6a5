/** The files of a model, of which weights are hashed. Native code reads them: several at a time take a quarter of the time. */
import { closeSync, fstatSync, openSync } from "node:fs"
import { cString, io } from "../io.ts"
import {
  fileState,
  isRememberable,
  labelOf,
  type WeightHash,
  type WeightHashes,
} from "./WeightHashes.ts"

/** Where a weight lies in its model. */
export type WeightPlace = Pick<WeightHash, "part" | "offsetBytes" | "sizeBytes">

export class WeightFile {
  readonly #descriptors: number[] = []

  /**
   * The model's files that `hashes` are of. Undefined where one cannot be opened, or is another one: links move, and paths are given to
   * other files. Where weights lie is to be read before. To be closed.
   */
  static open(hashes: WeightHashes): WeightFile | undefined {
    const file = new WeightFile()
    try {
      for (const part of hashes.paths) file.#descriptors.push(openSync(part, "r"))
      if (file.#isOf(hashes)) return file
    } catch {
      // As good as one that is another.
    }
    file.close()
    return undefined
  }

  /** Hashes without sources are kept nowhere. */
  #isOf({ sources }: WeightHashes): boolean {
    return (
      sources.length === 0 ||
      this.#descriptors.every(
        (descriptor, part) =>
          fileState(fstatSync(descriptor, { bigint: true })) === sources[part]?.state,
      )
    )
  }

  /** Their hashes, in the same order; undefined when a file is not what it was, or memory is short. */
  hash(places: readonly WeightPlace[]): readonly WeightHash[] | undefined {
    const words = new Uint32Array(2 * places.length)
    const { fds, offsets, sizes } = this.#arguments(places)
    if (io().io_hash_files(places.length, fds, offsets, sizes, words) === 0) return undefined
    return places.map((place, index) => ({
      ...place,
      low: words[2 * index]!,
      high: words[2 * index + 1]!,
    }))
  }

  /** Hashes them into `hashes` beside everything else, when a core is idle; false when these cannot be written, or there is no thread for it. Closes the file. */
  hashBeside(all: ReadonlyMap<string, WeightPlace>, hashes: WeightHashes): boolean {
    const places = new Map([...all].filter(([name]) => isRememberable(name)))
    if (places.size === 0) {
      this.close()
      return true
    }
    const output = hashes.openToAppend()
    if (output === undefined) {
      this.close()
      return false
    }
    const { fds, offsets, sizes } = this.#arguments([...places.values()])
    const labels = [...places].map(([name, { part, offsetBytes }]) =>
      labelOf(part, offsetBytes, name),
    )
    const owned = Int32Array.from(this.#descriptors.splice(0))
    const isBegun = io().io_hash_beside(
      ...([places.size, fds, offsets, sizes, cString(labels.join("\0"))] as const),
      ...([output, owned.length, owned] as const),
    )
    return isBegun === 1
  }

  #arguments(places: readonly WeightPlace[]) {
    return {
      fds: Int32Array.from(places, ({ part }) => this.#descriptors[part] ?? -1),
      offsets: Float64Array.from(places, ({ offsetBytes }) => offsetBytes),
      sizes: Float64Array.from(places, ({ sizeBytes }) => sizeBytes),
    }
  }

  close(): void {
    for (const descriptor of this.#descriptors.splice(0)) closeSync(descriptor)
  }
}
