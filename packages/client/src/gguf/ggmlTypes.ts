import { type TypeInfo, types } from "@ggml-rpc/protocol"

// GGUF numbers tensor types as ggml does, so the protocol's table describes files too.
const byId: ReadonlyMap<number, TypeInfo> = new Map(types.map((type) => [type.id, type]))
const byName: ReadonlyMap<string, TypeInfo> = new Map(types.map((type) => [type.name, type]))

/** The ggml type of a number, or undefined for numbers that are unknown or were removed. */
export const ggmlTypeById = (id: number): TypeInfo | undefined => byId.get(id)

/** The ggml type of a name such as `"Q8_0"`. */
export const ggmlTypeByName = (name: string): TypeInfo | undefined => byName.get(name)

/**
 * Bytes of a contiguous tensor with `ne[0..]` elements; undefined when a row is no whole number of
 * blocks, or the size is no exact number.
 */
export const tensorSizeBytes = (ne: readonly number[], type: TypeInfo): number | undefined => {
  const rowElements = ne[0] ?? 1
  if (rowElements % type.blockSize !== 0) return undefined
  const rowBytes = (rowElements / type.blockSize) * type.typeSize
  const sizeBytes = ne.slice(1).reduce((product, count) => product * count, rowBytes)
  return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined
}
