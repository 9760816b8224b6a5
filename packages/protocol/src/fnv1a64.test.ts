import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { fnv1a64 } from "../fixtures/fnv1a64.ts"
import { Fnv1a64 } from "./index.ts"

const byDefinition = (bytes: Uint8Array): bigint => {
  let hash = 0xcbf29ce484222325n
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  return hash
}

describe("Fnv1a64", () => {
  test("agrees with the definition at every length around the unrolled loop", () => {
    for (let length = 0; length < 70; length++) {
      const bytes = Uint8Array.from({ length }, (_, n) => 255 - n * 3)
      expect(fnv1a64(bytes)).toBe(byDefinition(bytes))
    }
  })

  test("agrees with the definition in any pieces, and in every form", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 10 }), (parts) => {
        const hash = new Fnv1a64()
        for (const part of parts) hash.update(part)
        const expected = byDefinition(Uint8Array.from(parts.flatMap((part) => [...part])))
        expect(hash.digest()).toBe(expected)
        expect((BigInt(hash.digestHi()) << 32n) + BigInt(hash.digestLo())).toBe(expected)
        expect(hash.digestHex()).toBe(expected.toString(16).padStart(16, "0"))
      }),
    )
  })

  test("input larger than the module's memory, and at an odd offset", () => {
    const bytes = Uint8Array.from({ length: 600_001 }, (_, n) => (n * 7919) >> 3)
    expect(fnv1a64(bytes)).toBe(byDefinition(bytes))
    expect(fnv1a64(bytes.subarray(3))).toBe(byDefinition(bytes.subarray(3)))
  })

  test("two hashes at once do not disturb each other", () => {
    const [left, right] = [new Fnv1a64(), new Fnv1a64()]
    for (let n = 0; n < 20; n++) {
      left.update(Uint8Array.of(n))
      right.update(Uint8Array.of(n * 2))
    }
    expect(left.digest()).toBe(byDefinition(Uint8Array.from({ length: 20 }, (_, n) => n)))
    expect(right.digest()).toBe(byDefinition(Uint8Array.from({ length: 20 }, (_, n) => n * 2)))
  })

  test("digest does not end it, reset starts again", () => {
    const hash = new Fnv1a64().update(Uint8Array.of(1))
    hash.digest()
    expect(hash.update(Uint8Array.of(2)).digest()).toBe(byDefinition(Uint8Array.of(1, 2)))
    hash.reset()
    expect(hash.digestHex()).toBe("cbf29ce484222325")
  })
})
