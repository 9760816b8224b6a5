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

/** Where a weight, or a slice of one, lies in its model. */
export type WeightPlace = Pick<WeightHash, "part" | "offsetBytes" | "sizeBytes" | "slice">

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
    const { fds, rows } = this.#arguments(places)
    if (io().io_hash_files(places.length, fds, rows, words) === 0) return undefined
    return places.map((place, index) => ({
      ...place,
      low: words[2 * index]!,
      high: words[2 * index + 1]!,
    }))
  }

  /** Hashes them into `hashes` beside everything else, when a core is idle; false when these cannot be written, or there is no thread for it. Closes the file. */
  hashBeside(
    all: readonly (readonly [name: string, place: WeightPlace])[],
    hashes: WeightHashes,
  ): boolean {
    const named = all.filter(([name]) => isRememberable(name))
    if (named.length === 0) {
      this.close()
      return true
    }
    const output = hashes.openToAppend()
    if (output === undefined) {
      this.close()
      return false
    }
    const { fds, rows } = this.#arguments(named.map(([, place]) => place))
    const labels = named.map(([name, place]) => labelOf(name, place))
    const owned = Int32Array.from(this.#descriptors.splice(0))
    const isBegun = io().io_hash_beside(
      ...([named.length, fds, rows, cString(labels.join("\0"))] as const),
      ...([output, owned.length, owned] as const),
    )
    return isBegun === 1
  }

  #arguments(places: readonly WeightPlace[]) {
    return {
      fds: Int32Array.from(places, ({ part }) => this.#descriptors[part] ?? -1),
      rows: Float64Array.from(
        places.flatMap(({ offsetBytes, sizeBytes, slice }) => [
          offsetBytes,
          sizeBytes,
          sizeBytes / (slice?.rowCount ?? 1),
          slice?.strideBytes ?? 0,
        ]),
      ),
    }
  }

  close(): void {
    for (const descriptor of this.#descriptors.splice(0)) closeSync(descriptor)
  }
}
