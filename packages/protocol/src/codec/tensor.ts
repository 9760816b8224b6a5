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
