import { expect, test } from "bun:test"
import { ABSENT_TENSOR, RpcTensor, tensorByteSize, types } from "@ggml-rpc/protocol"
import * as fc from "fast-check"
import { byteSize, hexU64, RECORD_WORDS, readU64, word, writeU64 } from "./tensorWords.ts"

const record = (fields: Partial<RpcTensor>): DataView => {
  const view = new DataView(new ArrayBuffer(RpcTensor.size))
  RpcTensor.encode({ ...ABSENT_TENSOR, ...fields }, view)
  return view
}

const u32 = fc.oneof(fc.integer({ min: 0, max: 64 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
const four = fc.array(u32, { minLength: 4, maxLength: 4 })

test("byteSize is protocol's tensorByteSize", () => {
  const type = fc.constantFrom(...types.map(({ id }) => id))
  fc.assert(
    fc.property(type, four, four, (id, ne, nb) => {
      const view = record({ type: id, ne, nb })
      expect(byteSize(new Uint32Array(view.buffer), 0)).toBe(tensorByteSize(view, 0))
    }),
    { numRuns: 2000 },
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
