import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import {
  ABSENT_TENSOR,
  RpcTensor,
  readU64AsNumber,
  TYPE_BLOCK_SIZE,
  TYPE_SIZE,
  tensorByteSize,
  typeId,
  types,
  writeU64FromNumber,
} from "../index.ts"

const encoded = (type: number, ne: readonly number[], nb: readonly number[]): DataView => {
  const view = new DataView(new ArrayBuffer(RpcTensor.size + 3))
  RpcTensor.encode({ ...ABSENT_TENSOR, type, ne, nb }, view, 3)
  return view
}

const byteSize = (type: number, ne: readonly number[], nb: readonly number[]): number =>
  tensorByteSize(encoded(type, ne, nb), 3)

/** ggml_nbytes with integers of any size. */
const exactByteSize = (type: number, ne: readonly number[], nb: readonly number[]): bigint => {
  const info = types.find(({ id }) => id === type)
  if (info === undefined) return -1n
  if (ne.includes(0)) return 0n
  const strided = (dim: number) => BigInt(ne[dim]! - 1) * BigInt(nb[dim]!)
  const rest = strided(1) + strided(2) + strided(3)
  return info.blockSize === 1
    ? BigInt(info.typeSize) + strided(0) + rest
    : (BigInt(ne[0]!) * BigInt(nb[0]!)) / BigInt(info.blockSize) + rest
}

describe("tensorByteSize", () => {
  const cases: readonly [string, string, number[], number[], number][] = [
    ["a row of floats", "F32", [4, 1, 1, 1], [4, 16, 16, 16], 16],
    ["a matrix of halves", "F16", [8, 3, 1, 1], [2, 16, 48, 48], 48],
    ["a row of Q4_0", "Q4_0", [256, 1, 1, 1], [18, 144, 144, 144], 144],
    ["a matrix of Q6_K", "Q6_K", [512, 2, 1, 1], [210, 420, 840, 840], 840],
    ["a transposed view", "F32", [3, 4, 1, 1], [16, 4, 48, 48], 48],
    ["a tensor without elements", "F32", [4, 0, 1, 1], [4, 16, 0, 0], 0],
    [
      "6 GiB by strides below 4 GiB",
      "F32",
      [1024, 1024, 1536, 1],
      [4, 4096, 4194304, 0],
      6 * 2 ** 30,
    ],
  ]
  for (const [what, type, ne, nb, size] of cases) {
    test(what, () => expect(byteSize(typeId(type), ne, nb)).toBe(size))
  }

  test("unknown and removed types are -1", () => {
    for (const type of [4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 0xffff_ffff]) {
      expect(byteSize(type, [1, 1, 1, 1], [1, 1, 1, 1])).toBe(-1)
    }
  })

  test("a type is judged before the shape", () => {
    expect(byteSize(4, [0, 1, 1, 1], [1, 1, 1, 1])).toBe(-1)
  })

  test("the largest shape does not wrap around", () => {
    const most = [0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]
    expect(byteSize(0, most, most)).toBe(-1)
    expect(byteSize(2, most, most)).toBe(-1)
  })

  test("just below and at 2^53", () => {
    // F32: 4 + (ne0 - 1) * nb0 + (ne1 - 1) * nb1
    const nb = [0x8000_0000, 0x7fff_fffb, 0, 0]
    expect(byteSize(0, [0x40_0000, 2, 1, 1], nb)).toBe(2 ** 53 - 1)
    expect(byteSize(0, [0x40_0000, 2, 1, 1], [0x8000_0000, 0x7fff_fffc, 0, 0])).toBe(-1)
  })

  const dims = fc.array(fc.oneof(fc.nat(9), fc.nat(0xffff), fc.nat(0xffff_ffff)), {
    minLength: 4,
    maxLength: 4,
  })
  test("agrees with unbounded integers for any shape", () => {
    fc.assert(
      fc.property(fc.nat(45), dims, dims, (type, ne, nb) => {
        const exact = exactByteSize(type, ne, nb)
        const expected = exact > BigInt(Number.MAX_SAFE_INTEGER) ? -1 : Number(exact)
        expect(byteSize(type, ne, nb)).toBe(expected)
      }),
      { numRuns: 3000 },
    )
  })
})

test("the type tables hold the table's sizes and 0 elsewhere", () => {
  expect(TYPE_SIZE.length).toBe(43)
  for (let id = 0; id < TYPE_SIZE.length; id++) {
    const info = types.find((type) => type.id === id)
    expect([TYPE_BLOCK_SIZE[id]!, TYPE_SIZE[id]!]).toEqual([
      info?.blockSize ?? 0,
      info?.typeSize ?? 0,
    ])
  }
})

describe("u64 as number", () => {
  const view = new DataView(new ArrayBuffer(12))

  test("reads what a number holds, and -1 for the rest", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }), (value) => {
        view.setBigUint64(3, value, true)
        expect(readU64AsNumber(view, 3)).toBe(value < 2n ** 53n ? Number(value) : -1)
      }),
    )
    view.setBigUint64(3, 2n ** 53n - 1n, true)
    expect(readU64AsNumber(view, 3)).toBe(Number.MAX_SAFE_INTEGER)
    view.setBigUint64(3, 2n ** 53n, true)
    expect(readU64AsNumber(view, 3)).toBe(-1)
  })

  test("writes every safe integer", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        writeU64FromNumber(view, 1, value)
        expect(view.getBigUint64(1, true)).toBe(BigInt(value))
      }),
    )
  })
})
