import { joinU64, RpcTensor, TYPE_BLOCK_SIZE, TYPE_SIZE, upperHalf } from "@ggml-rpc/protocol"

/**
 * Encoded tensors read as 32-bit words. The payload of a request lies 4-aligned in memory, and so does
 * every field of `RpcTensor`; indexing a `Uint32Array` costs a fifth of what a `DataView` does until the
 * code is hot, and a session handles its first graphs long before.
 */
export type Words = Uint32Array

if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) {
  throw new Error("the protocol is little endian, and so must the machine be")
}

/** Words of an encoded tensor. */
export const RECORD_WORDS = RpcTensor.size / 4

/** Word offsets of the fields of an encoded tensor. */
export const word = Object.fromEntries(
  Object.entries(RpcTensor.offsets).map(([field, offset]) => [field, offset / 4]),
) as { readonly [F in keyof typeof RpcTensor.offsets]: number }

/** The u64 at a word index, or -1 when it is 2^53 or more. */
export const readU64 = (words: Words, at: number): number => joinU64(words[at]!, words[at + 1]!)

/** Writes a safe non-negative integer as u64. */
export const writeU64 = (words: Words, at: number, value: number): void => {
  words[at] = value >>> 0
  words[at + 1] = upperHalf(value)
}

export const isZeroU64 = (words: Words, at: number): boolean =>
  words[at] === 0 && words[at + 1] === 0

/** For messages: a u64 in hexadecimal. */
export const hexU64 = (words: Words, at: number): string =>
  `0x${((BigInt(words[at + 1]!) << 32n) | BigInt(words[at]!)).toString(16)}`

/**
 * `ggml_nbytes` of an encoded tensor of a known type; ggml.c (7.0.0). -1 for 2^53 or more.
 * Every sum and product is checked before it is used again, so plain numbers stay exact.
 */
export const byteSize = (words: Words, at: number): number => {
  const type = words[at + word.type]!
  const blockSize = TYPE_BLOCK_SIZE[type]!
  const ne = at + word.ne
  const nb = at + word.nb
  const ne0 = words[ne]!
  const nb0 = words[nb]!
  if (ne0 === 0 || words[ne + 1] === 0 || words[ne + 2] === 0 || words[ne + 3] === 0) return 0
  let size =
    blockSize === 1
      ? TYPE_SIZE[type]! + (ne0 - 1) * nb0
      : Math.floor(ne0 / blockSize) * nb0 + Math.floor(((ne0 % blockSize) * nb0) / blockSize)
  for (let dim = 1; dim < 4; dim++) {
    if (size > Number.MAX_SAFE_INTEGER) return -1
    size += (words[ne + dim]! - 1) * words[nb + dim]!
  }
  return size > Number.MAX_SAFE_INTEGER ? -1 : size
}
