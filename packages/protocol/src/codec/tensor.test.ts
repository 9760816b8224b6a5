import { expect, test } from "bun:test"
import { TYPE_BLOCK_SIZE, TYPE_SIZE, types } from "../index.ts"

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
