/** The files of a model, of which weights are hashed. Native code reads them: several at a time take a quarter of the time. */
import { closeSync, openSync } from "node:fs"
import { readGguf } from "@ggml-rpc/gguf"
import { cString, io } from "@ggml-rpc/native/bindings"
import { partPaths } from "./partPaths.ts"
import { labelOf, type WeightHash, type WeightHashes } from "./WeightHashes.ts"

/** Where a weight lies in its model. */
export type WeightPlace = Pick<WeightHash, "part" | "offsetBytes" | "sizeBytes">

export class WeightFile {
  readonly #path: string
  readonly #descriptors: number[] = []

  private constructor(path: string) {
    this.#path = path
  }

  /** Undefined where a file cannot be opened. To be closed. */
  static open(path: string): WeightFile | undefined {
    const file = new WeightFile(path)
    try {
      for (const part of partPaths(path)) file.#descriptors.push(openSync(part, "r"))
      return file
    } catch {
      file.close()
      return undefined
    }
  }

  /** Where its weights lie, by name. None where the header cannot be read; libllama says why. */
  places(): ReadonlyMap<string, WeightPlace> {
    const places = new Map<string, WeightPlace>()
    try {
      const { tensors, parts } = readGguf(this.#path)
      for (const { name, part, offsetBytes, sizeBytes } of tensors) {
        const start = parts[part]!.dataOffsetBytes
        places.set(name, { part, offsetBytes: start + offsetBytes, sizeBytes })
      }
    } catch {
      places.clear()
    }
    return places
  }

  /** Their hashes, in the same order; undefined when a file is not what it was. */
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

  /** Hashes them into `hashes` beside everything else, when a core is idle. Closes the file. */
  hashBeside(places: ReadonlyMap<string, WeightPlace>, hashes: WeightHashes): void {
    const output = places.size === 0 ? undefined : hashes.openToAppend()
    if (output === undefined) {
      this.close()
      return
    }
    const { fds, offsets, sizes } = this.#arguments([...places.values()])
    const labels = [...places].map(([name, { part, offsetBytes }]) =>
      labelOf(part, offsetBytes, name),
    )
    const owned = Int32Array.from(this.#descriptors.splice(0))
    io().io_hash_beside(
      ...([places.size, fds, offsets, sizes, cString(labels.join("\0"))] as const),
      ...([output, owned.length, owned] as const),
    )
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
