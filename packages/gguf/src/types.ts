/**
 * GGUF value type numbers, in wire order; llama.cpp v0.5.0 ggml/include/gguf.h `gguf_type`.
 * The index in this list is the number in the file.
 */
export const GGUF_VALUE_TYPES = [
  "uint8",
  "int8",
  "uint16",
  "int16",
  "uint32",
  "int32",
  "float32",
  "bool",
  "string",
  "array",
  "uint64",
  "int64",
  "float64",
] as const

export type GgufValueType = (typeof GGUF_VALUE_TYPES)[number]
export type GgufScalarType = Exclude<GgufValueType, "array">
export type GgufNumberType = Exclude<GgufScalarType, "bool" | "string" | "uint64" | "int64">

/** Bytes of one value in the file; strings and arrays have no fixed size. */
export const GGUF_VALUE_SIZE = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  uint64: 8,
  int64: 8,
  float64: 8,
} as const satisfies Record<Exclude<GgufScalarType, "string">, number>

export type GgufArrayElement = number | bigint | boolean | string

/** An array's elements, or only its length and place when they were not read. */
export interface GgufArray {
  readonly type: "array"
  readonly elementType: GgufScalarType
  readonly length: number
  /** Where the first element lies in the file, in bytes. */
  readonly offsetBytes: number
  /** Absent when the array is longer than the reader's limit; `readGgufArray` fetches it. */
  readonly values?: readonly GgufArrayElement[]
}

export type GgufValue =
  | { readonly type: GgufNumberType; readonly value: number }
  | { readonly type: "uint64" | "int64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | GgufArray

/** One tensor as the header describes it. */
export interface GgufTensorInfo {
  readonly name: string
  /** ggml type number, as on the wire. */
  readonly typeId: number
  readonly typeName: string
  /** Elements per dimension, ggml order (`ne[0]` is a row); unused dimensions are 1. */
  readonly ne: readonly [number, number, number, number]
  /** Dimensions the file states, 0..4. */
  readonly dimensionCount: number
  /** From the start of the part's data section. */
  readonly offsetBytes: number
  readonly sizeBytes: number
  /** Which of `GgufFile.parts` holds the data. */
  readonly part: number
}

/** One file of a model; a model that is not split has exactly one. */
export interface GgufPart {
  /** Path or URL. */
  readonly path: string
  readonly fileBytes: number
  /** Where the data section starts in the file, in bytes. */
  readonly dataOffsetBytes: number
}

/** What a GGUF model says of itself; tensors of every part, in file order. */
export interface GgufFile {
  /** Path or URL of the first part, as it was given. */
  readonly path: string
  readonly version: 2 | 3
  readonly alignmentBytes: number
  /** Of the first part. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly GgufTensorInfo[]
  readonly parts: readonly GgufPart[]
  /** Sum of all tensors' bytes, without padding. */
  readonly tensorBytes: number
}

/** What one file of a model holds, besides weights. */
export interface PartContent {
  readonly part: GgufPart
  readonly version: 2 | 3
  readonly alignmentBytes: number
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly GgufTensorInfo[]
}
