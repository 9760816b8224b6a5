import { GgufError } from "./GgufError.ts"
import { readGguf } from "./read.ts"

/** Where a tensor's data lies in the files of its model. */
export interface TensorPlace {
  /** Which of the model's files; a model that is not split has one. */
  readonly part: number
  /** From the start of the file. */
  readonly offsetBytes: number
  readonly sizeBytes: number
  /** Elements per dimension. */
  readonly ne: readonly [number, number, number, number]
}

/** By tensor name; empty where the model at `path` is none that can be read. */
export const tensorPlaces = (path: string): ReadonlyMap<string, TensorPlace> => {
  try {
    const { tensors, parts } = readGguf(path)
    return new Map(
      tensors.map(({ name, part, offsetBytes, sizeBytes, ne }) => {
        const start = parts[part]!.dataOffsetBytes
        return [name, { part, offsetBytes: start + offsetBytes, sizeBytes, ne }]
      }),
    )
  } catch (error) {
    if (error instanceof GgufError) return new Map()
    throw error
  }
}
