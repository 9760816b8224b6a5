/**
 * Tensors as the shim reads them: packed records, written here field by field.
 *
 * The layout is that of shim/ggml/tensor_record.h `tensor_record`, which is rpc_tensor's (ggml-rpc.cpp, protocol
 * 7.0.0), little-endian. For tests and tools: the server's records come from the wire as they are.
 */
import type { Address } from "./io.ts"
import { ggml } from "./libggml.ts"

export const tensorRecordBytes = 296

/** Byte offsets of the fields. */
const at = {
  id: 0,
  type: 8,
  buffer: 12,
  ne: 20,
  nb: 36,
  op: 52,
  opParams: 56,
  flags: 120,
  src: 124,
  viewSrc: 204,
  viewOffset: 212,
  data: 220,
  name: 228,
  useCount: 292,
} as const

/** GGML_TENSOR_FLAG_COMPUTE. */
const computeFlag = 16

export interface TensorFields {
  /** ggml_type. */
  readonly type: number
  /** Elements per dimension, 1 to 4 of them; the others are 1. */
  readonly ne: ReadonlyArray<number>
  /** Bytes from one element to the next per dimension, all 4; without it the tensor is contiguous. */
  readonly nb?: ReadonlyArray<number>
  /** The buffer that holds the data. */
  readonly buffer: { readonly address: Address }
  /** Address of the first element. */
  readonly data: Address
  /** ggml_op; 0, none, for data that is there already. */
  readonly op?: number
  /** Up to 16 int32 words, whose meaning depends on the op. */
  readonly opParams?: ReadonlyArray<number>
  /** ggml_tensor_flag; for a tensor with an op 16, computed, which ggml would skip without it. */
  readonly flags?: number
  /** Up to 10 sources: 1-based places of their records; 0 is none. */
  readonly src?: ReadonlyArray<number>
  /** The tensor that this is a view of: the 1-based place of its record. */
  readonly viewSrc?: number
  readonly viewOffsetBytes?: number
  /** Up to 63 bytes. */
  readonly name?: string
  /** How many nodes of the graph read this one: lets backends fuse it into the only one. */
  readonly useCount?: number
}

/** Strides of a contiguous tensor, in bytes. */
export const contiguousStrides = (
  type: number,
  ne: ReadonlyArray<number>,
): readonly [number, number, number, number] => {
  const rowBytes =
    (Number(ggml().ggml_type_size(type)) * (ne[0] ?? 1)) / Number(ggml().ggml_blck_size(type))
  const planeBytes = rowBytes * (ne[1] ?? 1)
  return [Number(ggml().ggml_type_size(type)), rowBytes, planeBytes, planeBytes * (ne[2] ?? 1)]
}

/** One record of `tensorRecordBytes` bytes. Its id is 1: it is in use; a 0 would mark an empty one. */
export const tensorRecord = (fields: TensorFields): Uint8Array => {
  const record = new Uint8Array(tensorRecordBytes)
  const view = new DataView(record.buffer)
  const nb = fields.nb ?? contiguousStrides(fields.type, fields.ne)
  view.setBigUint64(at.id, 1n, true)
  view.setUint32(at.type, fields.type, true)
  view.setBigUint64(at.buffer, BigInt(fields.buffer.address), true)
  for (let i = 0; i < 4; i++) {
    view.setUint32(at.ne + i * 4, fields.ne[i] ?? 1, true)
    view.setUint32(at.nb + i * 4, nb[i] ?? 0, true)
  }
  view.setUint32(at.op, fields.op ?? 0, true)
  fields.opParams?.forEach((word, i) => {
    view.setInt32(at.opParams + i * 4, word, true)
  })
  view.setInt32(at.flags, fields.flags ?? (fields.op ? computeFlag : 0), true)
  fields.src?.forEach((place, i) => {
    view.setBigUint64(at.src + i * 8, BigInt(place), true)
  })
  view.setBigUint64(at.viewSrc, BigInt(fields.viewSrc ?? 0), true)
  view.setBigUint64(at.viewOffset, BigInt(fields.viewOffsetBytes ?? 0), true)
  view.setBigUint64(at.data, BigInt(fields.data), true)
  new TextEncoder().encodeInto(fields.name ?? "", record.subarray(at.name, at.useCount - 1))
  view.setInt32(at.useCount, fields.useCount ?? 0, true)
  return record
}

/** Records one after the other, as `Ggml.graph` takes them. */
export const tensorRecords = (tensors: ReadonlyArray<TensorFields>): Uint8Array => {
  const records = new Uint8Array(tensors.length * tensorRecordBytes)
  tensors.forEach((fields, index) => {
    records.set(tensorRecord(fields), index * tensorRecordBytes)
  })
  return records
}

/** Writes bytes into a tensor, blocking. The range must lie inside it: nothing is checked. */
export const setTensor = (record: Uint8Array, data: Uint8Array, offsetBytes = 0): void =>
  ggml().gs_tensor_set(record, data, offsetBytes, data.byteLength)

/** Fills `target` with bytes of a tensor, blocking. The range must lie inside it. */
export const getTensor = (record: Uint8Array, target: Uint8Array, offsetBytes = 0): void =>
  ggml().gs_tensor_get(record, target, offsetBytes, target.byteLength)

/** Sets bytes of a tensor to one value, blocking. The range must lie inside it. */
export const memsetTensor = (
  record: Uint8Array,
  value: number,
  offsetBytes: number,
  sizeBytes: number,
): void => ggml().gs_tensor_memset(record, value, offsetBytes, sizeBytes)

/** Copies a tensor into another of the same layout; false when the backends cannot do it directly. */
export const copyTensor = (from: Uint8Array, to: Uint8Array): boolean =>
  ggml().gs_tensor_copy(from, to) !== 0
