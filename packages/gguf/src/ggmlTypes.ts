/** How a ggml type packs its elements. */
export interface GgmlType {
  /** Number in the file; `ggml_type`. */
  readonly id: number
  readonly name: string
  /** Elements a block. */
  readonly blockSize: number
  /** Bytes a block. */
  readonly typeSize: number
}

/**
 * The types that a file may have: `ggml_type` of llama.cpp v0.5.0. Numbers that are missing were removed. A file's
 * numbers never change their meaning, unlike those of an RPC version.
 */
export const GGML_TYPES: readonly GgmlType[] = [
  { id: 0, name: "F32", blockSize: 1, typeSize: 4 },
  { id: 1, name: "F16", blockSize: 1, typeSize: 2 },
  { id: 2, name: "Q4_0", blockSize: 32, typeSize: 18 },
  { id: 3, name: "Q4_1", blockSize: 32, typeSize: 20 },
  { id: 6, name: "Q5_0", blockSize: 32, typeSize: 22 },
  { id: 7, name: "Q5_1", blockSize: 32, typeSize: 24 },
  { id: 8, name: "Q8_0", blockSize: 32, typeSize: 34 },
  { id: 9, name: "Q8_1", blockSize: 32, typeSize: 36 },
  { id: 10, name: "Q2_K", blockSize: 256, typeSize: 84 },
  { id: 11, name: "Q3_K", blockSize: 256, typeSize: 110 },
  { id: 12, name: "Q4_K", blockSize: 256, typeSize: 144 },
  { id: 13, name: "Q5_K", blockSize: 256, typeSize: 176 },
  { id: 14, name: "Q6_K", blockSize: 256, typeSize: 210 },
  { id: 15, name: "Q8_K", blockSize: 256, typeSize: 292 },
  { id: 16, name: "IQ2_XXS", blockSize: 256, typeSize: 66 },
  { id: 17, name: "IQ2_XS", blockSize: 256, typeSize: 74 },
  { id: 18, name: "IQ3_XXS", blockSize: 256, typeSize: 98 },
  { id: 19, name: "IQ1_S", blockSize: 256, typeSize: 50 },
  { id: 20, name: "IQ4_NL", blockSize: 32, typeSize: 18 },
  { id: 21, name: "IQ3_S", blockSize: 256, typeSize: 110 },
  { id: 22, name: "IQ2_S", blockSize: 256, typeSize: 82 },
  { id: 23, name: "IQ4_XS", blockSize: 256, typeSize: 136 },
  { id: 24, name: "I8", blockSize: 1, typeSize: 1 },
  { id: 25, name: "I16", blockSize: 1, typeSize: 2 },
  { id: 26, name: "I32", blockSize: 1, typeSize: 4 },
  { id: 27, name: "I64", blockSize: 1, typeSize: 8 },
  { id: 28, name: "F64", blockSize: 1, typeSize: 8 },
  { id: 29, name: "IQ1_M", blockSize: 256, typeSize: 56 },
  { id: 30, name: "BF16", blockSize: 1, typeSize: 2 },
  { id: 34, name: "TQ1_0", blockSize: 256, typeSize: 54 },
  { id: 35, name: "TQ2_0", blockSize: 256, typeSize: 66 },
  { id: 39, name: "MXFP4", blockSize: 32, typeSize: 17 },
  { id: 40, name: "NVFP4", blockSize: 64, typeSize: 36 },
  { id: 41, name: "Q1_0", blockSize: 128, typeSize: 18 },
  { id: 42, name: "Q2_0", blockSize: 64, typeSize: 18 },
]

const byId = new Map(GGML_TYPES.map((type) => [type.id, type]))
const byName = new Map(GGML_TYPES.map((type) => [type.name, type]))

/** The ggml type of a number, or undefined for numbers that are unknown or were removed. */
export const ggmlTypeById = (id: number): GgmlType | undefined => byId.get(id)

/** ggml gives new types the next number; one that is far above is nonsense. */
const MAX_LATER_TYPES = 64

/** Whether a number that is unknown may be a type of a later ggml. */
export const isLaterType = (id: number): boolean => {
  const newest = GGML_TYPES.at(-1)!.id
  return id > newest && id <= newest + MAX_LATER_TYPES
}

/** The ggml type of a name such as `"Q8_0"`. */
export const ggmlTypeByName = (name: string): GgmlType | undefined => byName.get(name)

/**
 * Bytes of a contiguous tensor with `ne[0..]` elements; undefined when a row is no whole number of
 * blocks, or the size is no exact number.
 */
export const tensorSizeBytes = (ne: readonly number[], type: GgmlType): number | undefined => {
  const rowElements = ne[0] ?? 1
  if (rowElements % type.blockSize !== 0) return undefined
  const rowBytes = (rowElements / type.blockSize) * type.typeSize
  const sizeBytes = ne.slice(1).reduce((product, count) => product * count, rowBytes)
  return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined
}
