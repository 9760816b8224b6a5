import { describe, expect, test } from "bun:test"
import * as fc from "fast-check"
import { IdTable } from "./IdTable.ts"

const words = (ids: readonly bigint[]): Uint32Array =>
  new Uint32Array(new BigUint64Array(ids).buffer)

const find = (table: IdTable, id: bigint): number =>
  table.find(Number(id & 0xffff_ffffn), Number(id >> 32n))

describe("IdTable", () => {
  test("finds as a Map does: the first of equal ids, never 0", () => {
    const table = new IdTable()
    const id = fc.oneof(fc.bigInt(0n, 9n), fc.bigInt(0n, 2n ** 64n - 1n))
    fc.assert(
      fc.property(fc.array(id, { maxLength: 3000 }), fc.array(id), (ids, others) => {
        const expected = new Map<bigint, number>()
        ids.forEach((key, index) => {
          if (key !== 0n && !expected.has(key)) expected.set(key, index)
        })
        table.fill(words(ids), 0, 2, ids.length)
        for (const key of [...ids, ...others])
          expect(find(table, key)).toBe(expected.get(key) ?? -1)
      }),
      { numRuns: 50 },
    )
  })

  test("reads ids at a stride, from a start", () => {
    const table = new IdTable()
    const ids = words([9n, 9n, 5n, 9n, 9n, 6n, 9n, 9n, 7n])
    table.fill(ids, 4, 6, 3)
    expect([5n, 6n, 7n, 9n].map((id) => find(table, id))).toEqual([0, 1, 2, -1])
  })

  test("forgets what it held before", () => {
    const table = new IdTable()
    table.fill(words([1n, 2n]), 0, 2, 2)
    table.fill(words([3n]), 0, 2, 1)
    expect([1n, 2n, 3n].map((id) => find(table, id))).toEqual([-1, -1, 0])
  })

  test("ids that differ in their high halves, or in alignment only, stay fast", () => {
    const count = 200_000
    const table = new IdTable()
    for (const step of [2n ** 32n, 296n, 4096n, 1n]) {
      const ids = new BigUint64Array(count)
      for (let index = 0; index < count; index++) ids[index] = BigInt(index + 1) * step
      const start = performance.now()
      table.fill(new Uint32Array(ids.buffer), 0, 2, count)
      // A table that clusters needs minutes.
      expect(performance.now() - start).toBeLessThan(3000)
      expect(find(table, 77n * step)).toBe(76)
    }
  })
})
