import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { readU64AsNumber, writeU64FromNumber } from "../index.ts"

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
