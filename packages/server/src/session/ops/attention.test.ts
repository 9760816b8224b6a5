import { describe, expect, test } from "bun:test"
import { type Change, changedNode, checkNode } from "../../../test/nodeCheck.ts"

type Case = readonly [op: string, index: number, change: Change, refusal: string]

const cases: readonly Case[] = [
  ["SOFT_MAX", 1, { sources: { 0: "F16 8,4,2" } }, "src[0] must be F32"],
  ["SOFT_MAX", 1, { result: "F16 8,4,2" }, "the result must be F32"],
  ["SOFT_MAX", 2, { sources: { 2: "F32 2 8,16,16,16" } }, "src[2] must be contiguous"],
  ["SOFT_MAX_BACK", 0, { floats: { 1: 0.5 } }, "op_params[1] must be 0"],
  [
    "SOFT_MAX_BACK",
    0,
    // Contiguous as ggml has it, but its kernel counts rows by nb[1].
    { result: "F32 8,1,4", sources: { 0: "F32 8,1,4 4,36,32,128", 1: "F32 8,1,4" } },
    "src[0] must be contiguous",
  ],
  ["ROPE", 0, { result: "F16 8,4,3" }, "the result must have the type of src[0]"],
  ["ROPE", 0, { sources: { 0: "I32 8,4,3" } }, "src[0] must be F16 or F32"],
  ["ROPE", 0, { sources: { 0: "F32 8,4,3 8,64,256,768" } }, "src[0] must have contiguous rows"],
  ["ROPE", 0, { sources: { 1: "I32 3 8,24,24,24" } }, "src[1] must be contiguous"],
  ["ROPE", 0, { sources: { 2: "F16 4" } }, "src[2] must be F32"],
  ["ROPE", 0, { result: "F32 9,4,3", sources: { 0: "F32 9,4,3" } }, "src[0].ne[0] must be even"],
  ["ROPE", 0, { params: { 1: 0 } }, "op_params[1] must be 2 to 8, not 0"],
  ["ROPE", 0, { params: { 1: 7 } }, "op_params[1] must be even"],
  ["ROPE", 0, { params: { 2: 1 } }, "op_params[2] must be one of 0, 2, 8, 24, 40"],
  ["ROPE", 0, { params: { 2: 10 }, sources: { 1: "I32 12" } }, "op_params[2] must be one of"],
  ["ROPE", 0, { params: { 1: 6, 15: 1 } }, "op_params[15] must be even"],
  ["ROPE", 0, { params: { 1: 6, 15: -2 } }, "op_params[15] must be 0 to 2"],
  ["ROPE", 1, { params: { 11: -2 } }, "op_params[11] must be 0 to 16"],
  ["ROPE", 1, { params: { 14: 11 } }, "must be sections of a row of src[0]"],
  ["ROPE", 1, { params: { 11: 0, 12: 0, 13: 0 } }, "must be sections of a row of src[0]"],
  ["ROPE", 4, { params: { 1: 16 } }, "op_params[1] must be 8 to 8"],
  ["ROPE", 4, { params: { 15: 2 } }, "op_params[15] must be 0 to 0"],
  ["ROPE_BACK", 0, { result: "F32 9,4,3", sources: { 0: "F32 9,4,3" } }, "must be even"],
  ["FLASH_ATTN_EXT", 0, { sources: { 0: "F16 64,3,8,2" } }, "src[0] must be F32"],
  // Types that a product has no code for: a null call in ggml.
  ...["I32", "F64", "Q8_1"].flatMap((type): Case[] => [
    ["FLASH_ATTN_EXT", 0, { sources: { 1: `${type} 64,32,2,2` } }, `src[1] cannot be ${type}`],
    ["FLASH_ATTN_EXT", 0, { sources: { 2: `${type} 64,32,2,2` } }, `src[2] cannot be ${type}`],
  ]),
  [
    "FLASH_ATTN_EXT",
    0,
    { sources: { 0: "F32 256,3,2", 1: "Q8_K 256,32,2", 2: "F16 64,32,2" }, result: "F32 64,2,3" },
    "src[1] cannot be Q8_K",
  ],
  [
    "FLASH_ATTN_EXT",
    0,
    { sources: { 1: "F16 64,32,2,2 4,256,8192,16384" } },
    "src[1] must have contiguous rows",
  ],
  [
    "FLASH_ATTN_EXT",
    0,
    { sources: { 3: "F16 32,3,1,2 2,72,216,216" } },
    "src[3] must be contiguous",
  ],
  ["FLASH_ATTN_EXT", 0, { sources: { 4: "F32 8 8,64,64,64" } }, "src[4] must be contiguous"],
  ["FLASH_ATTN_EXT", 0, { params: { 3: 20 } }, "op_params[3] must be 0 or 10"],
  ["FLASH_ATTN_EXT", 0, { params: { 4: -1 } }, "op_params[4] must be 0 to"],
  [
    "FLASH_ATTN_EXT",
    0,
    {
      // Its kernel takes nb[1] for the size of a row, also where there is one.
      result: "F32 64,1,1 4,1024,1024,1024",
      sources: { 0: "F32 64,1,1", 1: "F16 64,32", 2: "F16 64,32", 3: "F16 32,1", 4: "absent" },
    },
    "the result must have the strides of a new tensor",
  ],
  ["GET_REL_POS", 0, { sources: { 0: "F32 8,7" } }, "src[0] must be F16 or BF16"],
  ["WIN_PART", 0, { sources: { 0: "F32 8,10,7 4,36,360,2520" } }, "src[0] must be contiguous"],
  ["ADD_REL_POS", 0, { sources: { 1: "F16 4,3,4,5", 2: "F16 4,3,4,5" } }, "src[1] must be F32"],
  ["LIGHTNING_INDEXER", 0, { sources: { 1: "I32 64,1,6,2" } }, "src[1] cannot be I32"],
  ["LIGHTNING_INDEXER", 0, { sources: { 3: "F32 6,3,1,1" } }, "src[3] must be F16"],
  [
    "LIGHTNING_INDEXER",
    0,
    { sources: { 2: "F32 4,3,1,2 8,32,96,96" } },
    "src[2] must have contiguous rows",
  ],
]

describe("attention as no constructor makes it", () => {
  test.each(cases)("%s %d %j: %s", (op, index, change, refusal) => {
    expect(checkNode(changedNode(op, index, change))).toContain(refusal)
  })
})

describe("factors of ROPE, of which kernels read one for each pair of a row", () => {
  // 8 of 16 numbers of a row are turned: 4 factors are used, 8 are read.
  const node = changedNode("ROPE", 3, { sources: { 2: "F32 4" } })
  /** The factors lie so many bytes before the end of their buffer. */
  const check = (bytesLeft: number): string => {
    const bufferBytes = 2 ** 22
    return checkNode(node, {
      bufferBytes,
      change: (tensors) => {
        const [first, , factors] = tensors
        const data = first!.data + BigInt(bufferBytes - bytesLeft)
        tensors[2] = { ...factors!, data }
      },
    })
  }

  test("may be fewer where there is memory behind them", () => {
    expect(check(32)).toBe("")
  })

  test("are refused at the end of a buffer", () => {
    expect(check(16)).toContain("is read for 32 bytes by ROPE, where its buffer has 16 left")
  })
})
