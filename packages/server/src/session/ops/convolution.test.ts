import { describe, expect, test } from "bun:test"
import { type Change, changedNode, checkNode } from "../../../test/nodeCheck.ts"

type Case = readonly [op: string, index: number, change: Change, refusal: string]

const cases: readonly Case[] = [
  ["IM2COL", 1, { sources: { 1: "F16 10,3,2" } }, "src[1] must be F32"],
  ["IM2COL", 0, { sources: { 1: "BF16 8,8,3,2" } }, "src[1] must be F16 or F32"],
  ["IM2COL", 0, { result: "BF16 27,6,6,2" }, "the result must be F16 or F32"],
  // Rows are taken for dense, planes and channels are not.
  [
    "IM2COL",
    0,
    { sources: { 1: "F32 8,8,3,2 4,36,288,864" } },
    "src[1] must have contiguous planes",
  ],
  ["IM2COL", 0, { sources: { 1: "F32 8,8,3,2 4,32,288,864" } }, ""],
  ["IM2COL", 1, { sources: { 1: "F32 10,3,2 4,44,132,264" } }, ""],
  ["IM2COL_BACK", 0, { sources: { 1: "BF16 3,3,3,5" } }, "src[1] must be F16 or F32"],
  ["IM2COL_BACK", 0, { sources: { 0: "F16 27,6,6,2" } }, "src[0] must be F32"],
  ["IM2COL_3D", 0, { sources: { 1: "F16 8,8,8,4" } }, "src[1] must be F32"],
  ["COL2IM_1D", 0, { sources: { 0: "F32 6,5 4,28,140,140" } }, "src[0] must be contiguous"],
  ["COL2IM_1D", 0, { result: "F16 11,2" }, "the result must have the type of src[0]"],
  ["CONV_TRANSPOSE_1D", 0, { sources: { 0: "BF16 3,5,2" } }, "src[0] must be F16 or F32"],
  ["CONV_TRANSPOSE_1D", 0, { sources: { 1: "F16 6,2" } }, "src[1] must be F32"],
  ["CONV_TRANSPOSE_1D", 0, { params: { 1: 1 } }, "op_params[1] must be 0 to 0"],
  ["CONV_TRANSPOSE_1D", 0, { params: { 2: 2 } }, "op_params[2] must be 1 to 1"],
  ["CONV_TRANSPOSE_2D", 0, { sources: { 1: "F16 4,4,3,2" } }, "src[1] must be F32"],
  [
    "CONV_TRANSPOSE_2D",
    0,
    { sources: { 0: "F16 3,3,5,3 2,8,24,120" } },
    "src[0] must have contiguous planes",
  ],
  ["CONV_2D", 0, { sources: { 1: "F16 8,8,3,2" } }, "src[1] must be F32"],
  ["CONV_2D", 0, { sources: { 0: "F32 3,3,3,5 4,16,48,144" } }, "src[0] must be contiguous"],
  ["CONV_3D", 0, { sources: { 0: "BF16 3,3,3,15" } }, "src[0] must be F16 or F32"],
  ["CONV_2D_DW", 0, { sources: { 0: "BF16 3,3,1,3" } }, "src[0] must be F16 or F32"],
  ["CONV_2D_DW", 0, { sources: { 0: "F32 3,3,1,3 12,36,12,4" } }, "src[0] must be contiguous"],
  ["CONV_2D_DW", 0, { result: "F32 6,6,3,2 12,72,4,432" }, "the result must be contiguous"],
  [
    "CONV_2D_DW",
    0,
    { sources: { 1: "F32 8,8,3,2 4,36,288,864" } },
    "src[1] must be contiguous, or contiguous by channels",
  ],
  ["CONV_2D_DW", 1, { sources: { 0: "F16 3,3,1,3" } }, "src[0] must be contiguous by channels"],
  ["CONV_2D_DW", 1, { result: "F32 6,6,3,2" }, "the result must be contiguous by channels"],
  ["POOL_1D", 0, { sources: { 0: "BF16 8,3" } }, "src[0] must be F16 or F32"],
  [
    "POOL_1D",
    0,
    { sources: { 0: "F16 8,3,2 2,20,80,160" }, result: "F32 4,3,2" },
    "distance nb[1]",
  ],
  ["POOL_2D", 0, { sources: { 0: "I32 8,8,3,2" } }, "src[0] must be F16 or F32"],
  [
    "POOL_2D",
    0,
    // A single plane, whose nb[2] its kernel takes for the size of a plane.
    { sources: { 0: "F16 8,8 2,16,2,128" }, result: "F32 4,4" },
    "src[0] must have the strides of a new tensor",
  ],
  ["POOL_2D_BACK", 0, { sources: { 1: "F16 8,8,3" } }, "src[1] must be F32"],
]

describe("convolutions as no constructor makes them", () => {
  test.each(cases)("%s %d %j: %s", (op, index, change, refusal) => {
    const said = checkNode(changedNode(op, index, change))
    if (refusal === "") expect(said).toBe("")
    else expect(said).toContain(refusal)
  })

  test("a position must fit into work memory", () => {
    const channels = 2 ** 19
    const said = checkNode(changedNode("CONV_2D", 0, {}), {
      bufferBytes: 2 ** 40,
      change: (tensors) => {
        const [kernel, image] = tensors
        const kernelBytes = 36 * channels
        tensors[0] = {
          ...kernel!,
          ne: [3, 3, channels, 5],
          nb: [4, 12, 36, kernelBytes],
        }
        tensors[1] = { ...image!, ne: [8, 8, channels, 2], nb: [4, 32, 256, 256 * channels] }
      },
    })
    expect(said).toContain("src[0] must take at most 16777216 bytes a position")
  })

  test("an image has no strides of 2^31 or more", () => {
    const said = checkNode(changedNode("IM2COL", 0, {}), {
      bufferBytes: 2 ** 40,
      change: (tensors) => {
        tensors[1] = { ...tensors[1]!, nb: [4, 32, 256, 2 ** 31] }
      },
    })
    expect(said).toContain("src[1].nb[3] must be below 2^31")
  })
})
