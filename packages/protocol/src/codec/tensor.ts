import { array, cstring, i32, record, u32, u64, type ValueOf } from "./record.ts"
import { types } from "./types.ts"

/**
 * A `ggml_tensor` as it travels; ggml-rpc.cpp `rpc_tensor`. 296 bytes with the same offsets in every version.
 *
 * `ne[0..3]` are elements, `nb[0..3]` strides in bytes, both truncated to 32 bits by the sender: the high strides of a
 * tensor of 4 GiB or more wrap.
 */
export const RpcTensor = record("RpcTensor", {
  /** The client's tensor address: a unique key. 0 marks an absent tensor. */
  id: u64,
  /** ggml type id. */
  type: u32,
  /** The server's `remotePtr`; 0 when the tensor is in no buffer of this connection. */
  buffer: u64,
  /** Elements per dimension. */
  ne: array(u32, 4),
  /** Strides in bytes. */
  nb: array(u32, 4),
  /** Op id; numbering depends on the version. */
  op: u32,
  /** Raw op parameters; floats lie here bit by bit. */
  opParams: array(i32, 16),
  /** `TensorFlag` bits. */
  flags: i32,
  /** Ids of the source tensors; 0 is none, and holes are allowed. */
  src: array(u64, 10),
  /** Id of the viewed tensor, or 0. */
  viewSrc: u64,
  /** Byte offset in the viewed tensor; informative, `data` is already final (`view_offs`). */
  viewOffset: u64,
  /** Address inside the server's buffer: its base plus an offset the client chose. */
  data: u64,
  name: cstring(64),
  /** Uses of this tensor as a source in the client's whole graph; since 5.1.0, padding before. */
  useCount: i32,
})
export type RpcTensor = ValueOf<typeof RpcTensor>

/** `ggml_tensor_flag`. */
export const TensorFlag = { INPUT: 1, OUTPUT: 2, PARAM: 4, LOSS: 8, COMPUTE: 16 } as const

/** An absent source: 296 zero bytes. */
export const ABSENT_TENSOR: RpcTensor = RpcTensor.decode(new DataView(new ArrayBuffer(296)))

const typeTable = (pick: (type: (typeof types)[number]) => number): Uint16Array => {
  const table = new Uint16Array(Math.max(...types.map((type) => type.id)) + 1)
  for (const type of types) table[type.id] = pick(type)
  return table
}

/** Elements per block, by type id; 0 for ids that were removed. Type ids never moved, so all versions share it. */
export const TYPE_BLOCK_SIZE: Uint16Array = typeTable((type) => type.blockSize)

/** Bytes per block, by type id; 0 for ids that were removed. */
export const TYPE_SIZE: Uint16Array = typeTable((type) => type.typeSize)

const { type: TYPE, ne: NE, nb: NB } = RpcTensor.offsets

/**
 * Bytes that the encoded `RpcTensor` at `offset` spans, from its own `ne` and `nb`; ggml.c `ggml_nbytes` (7.0.0).
 *
 * -1 when its type id is unknown or removed, or when the size is 2^53 or more. The view must hold 296 bytes there.
 * Plain numbers suffice: nothing is subtracted, so what is below 2^53 in the end was exact all along, and what reached 2^53
 * stays there however it is rounded.
 */
export const tensorByteSize = (view: DataView, offset: number): number => {
  const type = view.getUint32(offset + TYPE, true)
  const blockSize = type < TYPE_BLOCK_SIZE.length ? TYPE_BLOCK_SIZE[type]! : 0
  if (blockSize === 0) return -1
  const ne0 = view.getUint32(offset + NE, true)
  const nb0 = view.getUint32(offset + NB, true)
  let empty = ne0 === 0
  let size =
    blockSize === 1
      ? TYPE_SIZE[type]! + (ne0 - 1) * nb0
      : // floor(ne0 * nb0 / blockSize) without forming the product
        Math.floor(ne0 / blockSize) * nb0 + Math.floor(((ne0 % blockSize) * nb0) / blockSize)
  for (let dim = 1; dim < 4; dim++) {
    const ne = view.getUint32(offset + NE + dim * 4, true)
    if (ne === 0) empty = true
    size += (ne - 1) * view.getUint32(offset + NB + dim * 4, true)
  }
  if (empty) return 0
  return size > Number.MAX_SAFE_INTEGER ? -1 : size
}
