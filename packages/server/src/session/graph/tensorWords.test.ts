import { expect, test } from "bun:test"
import { ABSENT_TENSOR, RpcTensor, typeId, types } from "@ggml-rpc/protocol"
import * as fc from "fast-check"
import { byteSize, hexU64, RECORD_WORDS, readU64, word, writeU64 } from "./tensorWords.ts"

const record = (fields: Partial<RpcTensor>): DataView => {
  const view = new DataView(new ArrayBuffer(RpcTensor.size))
  RpcTensor.encode({ ...ABSENT_TENSOR, ...fields }, view)
  return view
}

const u32 = fc.oneof(fc.integer({ min: 0, max: 64 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
const four = fc.array(u32, { minLength: 4, maxLength: 4 })

const sizeOf = (type: number, ne: readonly number[], nb: readonly number[]): number =>
  byteSize(new Uint32Array(record({ type, ne, nb }).buffer), 0)

/** ggml_nbytes with integers of any size. */
const exactSizeOf = (type: number, ne: readonly number[], nb: readonly number[]): bigint => {
  const { blockSize, typeSize } = types.find(({ id }) => id === type)!
  if (ne.includes(0)) return 0n
  const strided = (dim: number) => BigInt(ne[dim]! - 1) * BigInt(nb[dim]!)
  const rest = strided(1) + strided(2) + strided(3)
  return blockSize === 1
    ? BigInt(typeSize) + strided(0) + rest
    : (BigInt(ne[0]!) * BigInt(nb[0]!)) / BigInt(blockSize) + rest
}

test.each([
  ["a row of floats", "F32", [4, 1, 1, 1], [4, 16, 16, 16], 16],
  ["a matrix of halves", "F16", [8, 3, 1, 1], [2, 16, 48, 48], 48],
  ["a row of Q4_0", "Q4_0", [256, 1, 1, 1], [18, 144, 144, 144], 144],
  ["a matrix of Q6_K", "Q6_K", [512, 2, 1, 1], [210, 420, 840, 840], 840],
  ["a transposed view", "F32", [3, 4, 1, 1], [16, 4, 48, 48], 48],
  ["a tensor without elements", "F32", [4, 0, 1, 1], [4, 16, 0, 0], 0],
  ["6 GiB by short strides", "F32", [1024, 1024, 1536, 1], [4, 4096, 4194304, 0], 6 * 2 ** 30],
  // F32: 4 + (ne0 - 1) * nb0 + (ne1 - 1) * nb1
  ["2^53 - 1 bytes", "F32", [0x40_0000, 2, 1, 1], [0x8000_0000, 0x7fff_fffb, 0, 0], 2 ** 53 - 1],
  ["2^53 bytes", "F32", [0x40_0000, 2, 1, 1], [0x8000_0000, 0x7fff_fffc, 0, 0], -1],
] as const)("the size of %s", (_, type, ne, nb, size) => {
  expect(sizeOf(typeId(type), ne, nb)).toBe(size)
})

test("sizes agree with unbounded integers, and the largest shape does not wrap around", () => {
  const type = fc.constantFrom(...types.map(({ id }) => id))
  const most = [0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]
  fc.assert(
    fc.property(type, four, four, (id, ne, nb) => {
      const exact = exactSizeOf(id, ne, nb)
      const expected = exact > BigInt(Number.MAX_SAFE_INTEGER) ? -1 : Number(exact)
      expect(sizeOf(id, ne, nb)).toBe(expected)
    }),
    { numRuns: 3000, examples: [[0, most, most]] },
  )
})

test("every field lies on a word", () => {
  expect(Number.isInteger(RECORD_WORDS)).toBe(true)
  for (const offset of Object.values(word)) expect(Number.isInteger(offset)).toBe(true)
})

test("u64: exact below 2^53, -1 from there", () => {
  const words = new Uint32Array(4)
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 44 + 4096, Number.MAX_SAFE_INTEGER]) {
    writeU64(words, 1, value)
    expect(readU64(words, 1)).toBe(value)
    expect(hexU64(words, 1)).toBe(`0x${value.toString(16)}`)
  }
  for (const high of [0x20_0000, 0x8000_0000, 0xffff_ffff]) {
    words[2] = high
    expect(readU64(words, 1)).toBe(-1)
  }
})
