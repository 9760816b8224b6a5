import { describe, expect, test } from "bun:test"
import { type Change, changedNode, checkNode } from "../../../test/nodeCheck.ts"

type Case = readonly [op: string, index: number, change: Change, refusal: string]

const cases: readonly Case[] = [
  ["SSM_CONV", 0, { sources: { 0: "F16 8,8,2" } }, "src[0] must be F32"],
  ["SSM_CONV", 0, { sources: { 0: "F32 8,8,2 4,36,288,576" } }, "src[0].nb[1] must be the size of"],
  ["SSM_CONV", 0, { sources: { 0: "F32 8,8,2 4,32,288,576" } }, ""],
  ["SSM_CONV", 0, { sources: { 1: "F32 4,8 4,20,160,160" } }, "src[1] must be contiguous"],
  [
    "SSM_SCAN",
    0,
    { sources: { 0: "F32 16,4,8,2 4,64,256,2052" } },
    "src[0] must have the strides of a new tensor",
  ],
  [
    "SSM_SCAN",
    0,
    { sources: { 0: "F32 16,4,8,1 4,64,256,4" } },
    "src[0] must have the strides of a new tensor",
  ],
  [
    "SSM_SCAN",
    0,
    { sources: { 1: "F32 4,8,4,2 4,20,160,640" } },
    "src[1].nb[1] must be the size of a row, 16",
  ],
  [
    "SSM_SCAN",
    0,
    { sources: { 5: "F32 16,2,4,2 4,68,136,544" } },
    "src[5].nb[1] must be the size of a row, 64",
  ],
  ["SSM_SCAN", 0, { sources: { 6: "I64 2" } }, "src[6] must be I32"],
  ["SSM_SCAN", 0, { sources: { 6: "I32 2 8,16,16,16" } }, "src[6] must be contiguous"],
  ["SSM_SCAN", 1, { params: { 0: 2 }, result: "F32 288" }, "src[3].ne[0] must be 1 or"],
  ["RWKV_WKV6", 0, { sources: { 3: "F16 64,2" } }, "src[3] must be F32"],
  // What is left of a head behind whole vectors, its kernel reads and writes beyond the head.
  [
    "RWKV_WKV7",
    0,
    {
      result: "F32 64,68",
      sources: {
        0: "F32 32,2,4",
        1: "F32 32,2,4",
        2: "F32 32,2,4",
        3: "F32 32,2,4",
        4: "F32 32,2,4",
        5: "F32 32,2,4",
        6: "F32 2048,2",
      },
    },
    "src[2].ne[0] must be a multiple of 64",
  ],
  ["GATED_DELTA_NET", 0, { sources: { 2: "F16 64,4,4,2" } }, "src[2] must be F32"],
  ["GATED_DELTA_NET", 0, { sources: { 4: "F32 1,4,4,2 4,8,32,128" } }, "src[4] must be contiguous"],
  ["GATED_DELTA_NET", 0, { sources: { 2: "F32 64,4,4,2 4,1024,256,4096" } }, ""],
  ["DSV4_HC_COMB", 0, { params: { 1: 0 } }, "op_params[1] must be 1 to"],
  ["DSV4_HC_COMB", 0, { params: { 1: 1_000_000 } }, "op_params[1] must be 1 to 1000"],
  ["DSV4_HC_COMB", 0, { sources: { 2: "F16 24" } }, "src[2] must be F32"],
  ["DSV4_HC_PRE", 1, { params: { 1: 2 } }, "op_params[1] must be 0 to 1"],
  ["DSV4_HC_POST", 0, { sources: { 3: "F16 4,4,3" } }, "src[3] must be F32"],
]

describe("recurrent operations as no constructor makes them", () => {
  test.each(cases)("%s %d %j: %s", (op, index, change, refusal) => {
    const said = checkNode(changedNode(op, index, change))
    if (refusal === "") expect(said).toBe("")
    else expect(said).toContain(refusal)
  })
})
