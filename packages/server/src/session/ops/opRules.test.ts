import { describe, expect, test } from "bun:test"
import { NUMBERING_PROBE, type OpName, type RpcTensor, types } from "@ggml-rpc/protocol"
import { type Change, changedNode, checkNode } from "../../../test/nodeCheck.ts"
import { denseStrides, type ValidNode, validNodes } from "../../../test/validNodes.ts"
import type { Ruled } from "./rule.ts"
import { opRules } from "./table.ts"

/** What the check says of a node: "" or the reason of its refusal. */
const check = (
  node: ValidNode,
  change: (tensors: RpcTensor[]) => void = () => {},
  allowTraining = true,
): string => checkNode(node, { change, allowTraining })

describe("a node as ggml builds it", () => {
  test.each(validNodes.map((node) => [node.op, node] as const))("%s is accepted", (_, node) => {
    expect(check(node)).toBe("")
  })
})

/** Dimensions of a result that its sources do not determine. */
const freeDimensions: Readonly<Record<string, readonly number[]>> = {
  UPSCALE: [0, 1, 2, 3],
  GET_ROWS_BACK: [1],
  REPEAT: [3],
  WIN_UNPART: [1, 2],
  TOP_K: [0],
}

describe("a result of another shape", () => {
  const cases = validNodes.flatMap((node) =>
    [0, 1, 2, 3].map((dim) => [node.op, dim, node] as const),
  )
  test.each(cases)("%s with another ne[%p] is refused", (op, dim, node) => {
    const reason = check(node, (tensors) => {
      const result = tensors.at(-1)!
      const ne = [...result.ne]
      ne[dim] = ne[dim]! + (dim === 0 && result.type > 1 && result.type < 24 ? ne[0]! : 1)
      const nb = denseStrides(types.find(({ id }) => id === result.type)!, ne)
      tensors[tensors.length - 1] = { ...result, ne, nb }
    })
    if (freeDimensions[op]?.includes(dim)) expect(reason).toBe("")
    else expect(reason).toContain("cannot be computed")
  })
})

describe("what no constructor makes", () => {
  const cases: ReadonlyArray<readonly [string, number, Change, string]> = [
    ["ADD", 0, { sources: { 1: "F32 3" } }, "src[1].ne[0] must divide src[0].ne[0]"],
    ["MUL", 0, { sources: { 1: "F32 8,0" } }, "src[1] must not be empty"],
    ["ADD", 0, { sources: { 1: null } }, "is 0, but ADD reads it"],
    ["DUP", 0, { result: "F16 8,4" }, "the result must have the type of src[0]"],
    ["CONT", 0, { sources: { 0: "F32 8,5" } }, "as many elements as src[0]"],
    ["CPY", 0, { sources: { 0: "F32 9,4" } }, "as many elements as src[0]"],
    ["ADD_ID", 0, { sources: { 2: "I64 4,2" } }, "src[2] must be I32"],
    ["ADD_ID", 0, { sources: { 1: "F32 7,3" } }, "src[1].ne[0] must be src[0].ne[0]"],
    ["ADD_ID", 0, { sources: { 2: "I32 5,2" } }, "src[2].ne[0] must be src[0].ne[1]"],
    ["ADD_ID", 0, { sources: { 2: "I32 4,3" } }, "src[2].ne[1] must be src[0].ne[2]"],
    ["ADD1", 0, { sources: { 1: "F32 2" } }, "src[1] must be ne[1,1,1,1]"],
    ["ACC", 0, { params: { 3: 112 } }, "a view inside the result"],
    ["ACC", 0, { params: { 0: -32 } }, "op_params[0] must be 0 to"],
    ["SET", 0, { params: { 0: 1 << 20 } }, "a view inside the result"],
    ["SET", 0, { params: { 3: -1 } }, "op_params[3] must be 0 to"],
    ["ARGMAX", 0, { result: "F32 4" }, "the result must be I32"],
    ["ARGMAX", 0, { sources: { 0: "F32 8,4,2" } }, "src[0] must have two dimensions"],
    ["COUNT_EQUAL", 0, { sources: { 1: "I32 8,5" } }, "src[1] must have the shape of src[0]"],
    ["COUNT_EQUAL", 0, { result: "I32 1" }, "the result must be I64"],
    ["REPEAT", 0, { sources: { 0: "F32 3,2,3" } }, "src[0].ne[0] must divide the result.ne[0]"],
    ["REPEAT", 0, { result: "F16 16,4,6" }, "the result must have the type of src[0]"],
    ["REPEAT_BACK", 0, { result: "F32 3,2,3" }, "the result.ne[0] must divide src[0].ne[0]"],
    ["CONCAT", 0, { params: { 0: 4 } }, "op_params[0] must be 0 to 3, not 4"],
    ["CONCAT", 0, { params: { 0: -1 } }, "op_params[0] must be 0 to 3, not -1"],
    ["CONCAT", 0, { sources: { 1: "F16 8,3,2" } }, "src[1] must have the type of src[0]"],
    ["CONCAT", 0, { sources: { 1: "F32 7,3,2" } }, "src[1].ne[0] must be src[0].ne[0]"],
    ["SILU_BACK", 0, { sources: { 1: "F32 8,5" } }, "src[1] must have the shape of src[0]"],
    ["RMS_NORM_BACK", 0, { sources: { 1: "F32 8,5" } }, "src[1] must have the shape of src[0]"],
    ["GROUP_NORM", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    ["GROUP_NORM", 0, { params: { 0: 1 << 30 } }, "op_params[0] must be 1 to"],
    ["MUL_MAT", 0, { sources: { 0: "F32 15,6,2,1" } }, "src[0].ne[0] must be src[1].ne[0]"],
    ["MUL_MAT", 0, { sources: { 0: "F32 16,6,3,1" } }, "src[0].ne[2] must divide src[1].ne[2]"],
    ["MUL_MAT", 0, { sources: { 0: "F32 16,6,2,0" } }, "src[0].ne[3] must divide src[1].ne[3]"],
    ["MUL_MAT", 0, { result: "F16 6,5,4,2" }, "the result must be F32"],
    ["MUL_MAT_ID", 0, { sources: { 2: "F32 2,5" } }, "src[2] must be I32"],
    ["MUL_MAT_ID", 0, { sources: { 0: "F32 16,6,4,2" } }, "must have three dimensions"],
    ["MUL_MAT_ID", 0, { sources: { 2: "I32 2,4" } }, "src[2].ne[1] must be src[1].ne[2]"],
    ["MUL_MAT_ID", 0, { sources: { 1: "F32 16,3,5" } }, "src[1].ne[1] must divide src[2].ne[0]"],
    ["OUT_PROD", 0, { sources: { 0: "F32 6,15,2" } }, "src[0].ne[1] must be src[1].ne[1]"],
    ["GET_ROWS", 0, { sources: { 1: "F32 3,2" } }, "src[1] must be I32"],
    ["GET_ROWS", 0, { sources: { 1: "I32 3,3" } }, "src[0].ne[2] must be src[1].ne[1]"],
    ["GET_ROWS", 0, { result: "F16 8,3,2" }, "the result must be F32"],
    ["GET_ROWS", 1, { result: "F32 8,3" }, "the result must be I32"],
    ["GET_ROWS_BACK", 0, { sources: { 1: "I32 4" } }, "src[0] must have a row per index"],
    ["GET_ROWS_BACK", 0, { sources: { 1: "F32 3" } }, "src[1] must be I32"],
    ["SET_ROWS", 0, { sources: { 0: "F32 7,3,2" } }, "the result.ne[0] must be src[0].ne[0]"],
    ["SET_ROWS", 0, { sources: { 0: "I32 8,3,2" } }, "src[0] must be F16 or F32"],
    ["SET_ROWS", 0, { sources: { 1: "F32 3,1" } }, "src[1] must be I64 or I32"],
    ["SET_ROWS", 0, { sources: { 1: "I64 4,1" } }, "src[1].ne[0] must be src[0].ne[1]"],
    ["SET_ROWS", 0, { sources: { 1: "I64 3,3" } }, "src[1].ne[1] must divide src[0].ne[2]"],
    ["SET_ROWS", 0, { sources: { 2: "F16 8,6,2" } }, "the result must have the shape of src[2]"],
    ["DIAG", 0, { sources: { 0: "F32 8,2,2" } }, "src[0].ne[1] must be 1"],
    ["DIAG_MASK_INF", 0, { params: { 0: -1 } }, "op_params[0] must be 0 to"],
    ["SOFT_MAX", 0, { sources: { 1: "I32 8,6,2" } }, "src[1] must be F16 or F32"],
    ["SOFT_MAX", 0, { sources: { 1: "F16 7,6,2" } }, "src[1].ne[0] must be src[0].ne[0]"],
    ["SOFT_MAX", 0, { sources: { 1: "F16 8,3,2" } }, "src[1].ne[1] must be at least src[0].ne[1]"],
    ["SOFT_MAX", 0, { sources: { 1: "F16 8,6,3" } }, "src[1].ne[2] must divide src[0].ne[2]"],
    ["SOFT_MAX", 0, { sources: { 2: "F32 3" } }, "src[2].ne[0] must be src[0].ne[2]"],
    ["SOFT_MAX", 0, { sources: { 1: null } }, "op_params[1] needs src[1]"],
    ["SOFT_MAX_BACK", 0, { sources: { 1: "F32 8,5" } }, "src[1] must have the shape of src[0]"],
    ["ROPE", 0, { sources: { 1: "I32 4" } }, "src[1].ne[0] must be src[0].ne[2] times 1"],
    ["ROPE", 1, { sources: { 1: "I32 3" } }, "src[1].ne[0] must be src[0].ne[2] times 4"],
    ["ROPE", 0, { sources: { 1: "F32 3" } }, "src[1] must be I32"],
    ["ROPE", 0, { sources: { 2: "F32 3" } }, "src[2] must have a factor per pair"],
    ["ROPE", 0, { params: { 1: 10 } }, "op_params[1] must be 2 to 8"],
    ["ROPE", 0, { params: { 1: -2 } }, "op_params[1] must be 2 to 8"],
    ["ROPE", 0, { params: { 15: 2 } }, "op_params[15] must be 0 to 0"],
    ["CONV_TRANSPOSE_1D", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    ["CONV_TRANSPOSE_1D", 0, { sources: { 0: "F32 3,5,3" } }, "src[0].ne[2] must be src[1].ne[1]"],
    ["IM2COL", 0, { params: { 6: 2 } }, "op_params[6] must be 0 to 1"],
    ["IM2COL", 0, { params: { 1: 0 } }, "op_params[1] must be 1 to"],
    ["IM2COL", 0, { params: { 2: -1 } }, "op_params[2] must be 0 to"],
    ["IM2COL", 0, { params: { 4: 0 } }, "op_params[4] must be 1 to"],
    ["IM2COL", 0, { sources: { 1: "F32 8,8,4,2" } }, "src[1].ne[2] must be src[0].ne[2]"],
    ["IM2COL", 1, { sources: { 1: "F32 10,4,2" } }, "src[1].ne[1] must be src[0].ne[1]"],
    ["IM2COL", 0, { params: { 0: 2 } }, "the result must be ne[27,3,6,2]"],
    ["IM2COL_BACK", 0, { params: { 0: 2 } }, "src[0] must be ne[27,3,6,2]"],
    ["IM2COL_3D", 0, { params: { 9: 0 } }, "op_params[9] must be 1 to"],
    ["IM2COL_3D", 0, { params: { 2: 0 } }, "op_params[2] must be 1 to"],
    ["IM2COL_3D", 0, { params: { 8: -1 } }, "op_params[8] must be 1 to"],
    ["COL2IM_1D", 0, { params: { 1: 0 } }, "op_params[1] must be 1 to"],
    ["COL2IM_1D", 0, { params: { 1: 4 } }, "op_params[1] must divide src[0].ne[0]"],
    ["COL2IM_1D", 0, { params: { 2: 1 << 30 } }, "op_params[2] must be 0 to"],
    ["CONV_2D", 0, { params: { 5: 0 } }, "op_params[5] must be 1 to"],
    ["CONV_2D", 0, { sources: { 0: "F32 3,3,4,5" } }, "src[0].ne[2] must be src[1].ne[2]"],
    ["CONV_3D", 0, { params: { 9: 0 } }, "op_params[9] must be 1 to"],
    ["CONV_3D", 0, { params: { 11: 4 } }, "src[0].ne[3] must be op_params[9] times [11]"],
    ["CONV_3D", 0, { params: { 10: 1 } }, "src[1].ne[3] must be op_params[9] times [10]"],
    ["CONV_2D_DW", 0, { sources: { 0: "F32 3,3,2,3" } }, "src[0].ne[2] must be 1"],
    ["CONV_2D_DW", 0, { sources: { 0: "F32 3,3,1,4" } }, "src[0].ne[3] must be src[1].ne[2]"],
    ["CONV_TRANSPOSE_2D", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    [
      "CONV_TRANSPOSE_2D",
      0,
      { sources: { 0: "F16 3,3,5,4" } },
      "src[0].ne[3] must be src[1].ne[2]",
    ],
    ["POOL_1D", 0, { params: { 2: 0 } }, "op_params[2] must be 1 to"],
    ["POOL_1D", 0, { params: { 1: 1 << 30 } }, "must follow from kernel, stride and padding"],
    ["POOL_1D", 0, { params: { 0: 2 } }, "op_params[0] must be 0 to 1"],
    ["POOL_2D", 0, { params: { 3: -1 } }, "op_params[3] must be 1 to"],
    ["POOL_2D", 0, { params: { 2: 4 } }, "must follow from kernel, stride and padding"],
    ["POOL_2D_BACK", 0, { sources: { 0: "F32 5,4,3" } }, "ne[0] and ne[1] of src[0] must follow"],
    ["UPSCALE", 0, { params: { 0: 3 } }, "op_params[0] must be a known mode"],
    ["UPSCALE", 0, { sources: { 0: "F16 4,4,3" } }, "src[0] must be F32"],
    ["UPSCALE", 0, { sources: { 0: "F32 4,0,3" } }, "src[0] must not be empty"],
    ["PAD", 0, { params: { 0: -1, 1: 4 } }, "op_params[0] must be 0 to"],
    [
      "PAD",
      0,
      { result: "F32 40,6,2", params: { 0: 30, 8: 1 } },
      "the padding of ne[0] must not be larger",
    ],
    ["PAD_REFLECT_1D", 0, { result: "F32 18,4", params: { 0: 8 } }, "op_params[0] must be 0 to 7"],
    ["ROLL", 0, { params: { 0: 8 } }, "op_params[0] must be -7 to 7"],
    ["ROLL", 0, { params: { 1: -4 } }, "op_params[1] must be -3 to 3"],
    ["TIMESTEP_EMBEDDING", 0, { params: { 1: 0 } }, "op_params[1] must be 1 to"],
    ["ARGSORT", 0, { result: "F32 8,4" }, "the result must be I32"],
    ["ARGSORT", 0, { params: { 0: 2 } }, "op_params[0] must be 0 to 1"],
    ["TOP_K", 0, { result: "I32 9,4" }, "must not be wider than src[0]"],
    [
      "TRI",
      0,
      { sources: { 0: "F32 8,7" }, result: "F32 8,7" },
      "src[0].ne[1] must be src[0].ne[0]",
    ],
    ["TRI", 0, { params: { 0: 4 } }, "op_params[0] must be 0 to 3"],
    ["FLASH_ATTN_EXT", 0, { sources: { 1: "F16 32,32,2,2" } }, "src[1].ne[0] must be src[0].ne[0]"],
    ["FLASH_ATTN_EXT", 0, { sources: { 2: "F16 64,31,2,2" } }, "src[2].ne[1] must be src[1].ne[1]"],
    [
      "FLASH_ATTN_EXT",
      0,
      { sources: { 2: "F16 64,32,3,2" } },
      "src[2].ne[2] must divide src[0].ne[2]",
    ],
    ["FLASH_ATTN_EXT", 0, { sources: { 3: "F32 32,3,1,2" } }, "src[3] must be F16"],
    [
      "FLASH_ATTN_EXT",
      0,
      { sources: { 3: "F16 31,3,1,2" } },
      "src[3].ne[0] must be at least src[1].ne[1]",
    ],
    [
      "FLASH_ATTN_EXT",
      0,
      { sources: { 3: "F16 32,2,1,2" } },
      "src[3].ne[1] must be at least src[0].ne[1]",
    ],
    ["FLASH_ATTN_EXT", 0, { sources: { 4: "F32 7" } }, "src[4].ne[0] must be src[0].ne[2]"],
    ["FLASH_ATTN_EXT", 0, { sources: { 3: null }, floats: { 1: 1 } }, "op_params[1] needs src[3]"],
    ["SSM_CONV", 0, { sources: { 1: "F32 4,7" } }, "src[0].ne[1] must be src[1].ne[1]"],
    ["SSM_CONV", 0, { sources: { 1: "F32 9,8" } }, "the result must be"],
    ["SSM_SCAN", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    ["SSM_SCAN", 0, { sources: { 6: "I32 3" } }, "src[6] must name a state per sequence"],
    [
      "SSM_SCAN",
      0,
      { sources: { 4: "F32 16,3,4,2", 5: "F32 16,3,4,2" } },
      "src[4].ne[1] must divide src[1].ne[1]",
    ],
    ["SSM_SCAN", 0, { sources: { 3: "F32 2,8" } }, "src[3].ne[0] must be 1 or src[0].ne[0]"],
    ["WIN_PART", 0, { params: { 2: 0 } }, "op_params[2] must be 1 to"],
    ["WIN_PART", 0, { params: { 0: 4 } }, "op_params[0] must be 3 to 3"],
    ["WIN_UNPART", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    ["WIN_UNPART", 0, { sources: { 0: "F32 8,4,4,5" } }, "src[0] must be ne[8,4,4,6]"],
    ["GET_REL_POS", 0, { sources: { 0: "F16 8,8" } }, "src[0].ne[1] must be twice"],
    [
      "ADD_REL_POS",
      0,
      { sources: { 1: "F32 4,3,4,6", 2: "F32 4,3,4,6" } },
      "src[1].ne[3] must be src[0].ne[2]",
    ],
    [
      "ADD_REL_POS",
      0,
      { sources: { 1: "F32 5,3,4,5", 2: "F32 5,3,4,5" } },
      "must be the square of",
    ],
    [
      "RWKV_WKV6",
      0,
      { sources: { 5: "F32 8192,3" } },
      "src[5].ne[1] must divide the number of tokens",
    ],
    [
      "RWKV_WKV6",
      0,
      { sources: { 5: "F32 8192,0" }, result: "F32 128,4" },
      "src[5] must not be empty",
    ],
    [
      "RWKV_WKV6",
      0,
      { sources: { 3: "F32 64,1" } },
      "src[3] must have a value per head and channel",
    ],
    ["RWKV_WKV6", 0, { sources: { 4: "F32 64,2,3" } }, "src[4] must be ne[64,2,4,1]"],
    [
      "RWKV_WKV7",
      0,
      { sources: { 6: "F32 8191,2" } },
      "src[6] must be a state per head and sequence",
    ],
    ["GATED_LINEAR_ATTN", 0, { sources: { 3: "F16 64,2,4" } }, "src[3] must be F32"],
    ["SOLVE_TRI", 0, { sources: { 0: "F32 8,7,2" } }, "src[0].ne[0] must be src[0].ne[1]"],
    ["GATED_DELTA_NET", 0, { params: { 0: 0 } }, "op_params[0] must be 1 to"],
    [
      "GATED_DELTA_NET",
      0,
      { sources: { 3: "F32 2,4,4,2" } },
      "src[3].ne[0] must be 1 or src[2].ne[0]",
    ],
    ["GATED_DELTA_NET", 0, { sources: { 5: "F32 64,64,4,3" } }, "src[5] must be ne[64,64,4,2]"],
    ["LIGHTNING_INDEXER", 0, { sources: { 3: "F16 7,3,1,1" } }, "src[3] must be ne[6,3,1,1]"],
    ["LIGHTNING_INDEXER", 0, { sources: { 3: null } }, "is 0, but LIGHTNING_INDEXER reads it"],
    ["DSV4_HC_COMB", 0, { sources: { 1: "F32 2" } }, "src[1] must have three elements"],
    ["DSV4_HC_COMB", 0, { sources: { 0: "F32 15,3" } }, "src[0] must be ne[24,3,1,1]"],
    ["DSV4_HC_PRE", 1, { params: { 1: 0 } }, "src[1] must be ne[4,3,1,1]"],
    ["DSV4_HC_POST", 0, { sources: { 3: "F32 4,4,2" } }, "src[3] must be ne[4,4,3,1]"],
    [
      "CROSS_ENTROPY_LOSS",
      0,
      { sources: { 1: "F32 8,5" } },
      "src[1] must have the shape of src[0]",
    ],
    ["CROSS_ENTROPY_LOSS_BACK", 0, { sources: { 0: "F32 2" } }, "src[0] must be ne[1,1,1,1]"],
    ["OPT_STEP_ADAMW", 0, { sources: { 4: "F32 6" } }, "src[4] must have 7 elements"],
    ["OPT_STEP_ADAMW", 0, { sources: { 2: "F32 8,5" } }, "src[2] must have the shape of src[0]"],
    ["OPT_STEP_SGD", 0, { sources: { 2: "F32 1" } }, "src[2] must have 2 elements"],
    ["GLU", 0, { sources: { 0: "F32 14,4" } }, "the result must be ne[7,4,1,1]"],
    ["GLU", 1, { sources: { 1: "F16 8,4" } }, "src[1] must have the type of src[0]"],
    [
      "GLU",
      0,
      { sources: { 0: "F16 16,4" }, result: "F16 8,4", params: { 0: 3 } },
      "src[0] must be F32",
    ],
    ["UNARY", 0, { sources: { 0: "BF16 8,4" }, result: "BF16 8,4" }, "src[0] must be F16 or F32"],
    ["ADD", 0, { sources: { 1: "F16 8,1,2,1" } }, "src[1] must have the type of src[0]"],
    ["ADD", 1, { sources: { 1: "BF16 8,4" } }, "src[1] must be F32"],
    ["ADD", 1, { result: "BF16 8,4" }, "the result must be F16 or F32"],
    ["ADD", 2, { sources: { 1: "F32 32,1" } }, "src[1] must have the shape of src[0]"],
    ["ADD", 2, { sources: { 1: "F16 32,4" } }, "src[1] must be F32"],
    ["ADD1", 0, { sources: { 1: "F16 1" } }, "src[1] must be F32"],
    ["ADD_ID", 0, { sources: { 1: "F32 8,3,2" } }, "src[1] must have two dimensions"],
    ["ACC", 0, { params: { 0: 30 } }, "op_params must be multiples of an element's size"],
    ["ACC", 0, { sources: { 1: "F32 0,2" }, params: { 3: 4096 } }, "a view inside the result"],
    ["SET", 0, { sources: { 1: "I32 4,2" } }, "src[1] must have the type of src[0]"],
    ["ARANGE", 0, { floats: { 2: 3 } }, "the result must have the 4 elements of op_params"],
    ["ARANGE", 0, { floats: { 2: 0 } }, "the result must have the Infinity elements"],
    [
      "COUNT_EQUAL",
      0,
      { sources: { 0: "I32 8,4,2", 1: "I32 8,4,2" } },
      "src[0] must have two dimensions",
    ],
    ["NORM", 0, { floats: { 0: -1 } }, "op_params[0] must be 0.0 or more"],
    ["RMS_NORM", 0, { floats: { 0: Number.NaN } }, "op_params[0] must be 0.0 or more"],
    ["MUL_MAT", 0, { params: { 1: 1 } }, "src[0] must be a square with a power of 2 for its side"],
    ["MUL_MAT", 1, { sources: { 1: "F16 256,5" } }, "src[1] cannot be F16 where src[0] is Q4_K"],
    ["MUL_MAT_ID", 0, { sources: { 1: "F16 16,1,5" } }, "src[1] cannot be F16 where src[0] is F32"],
    ["OUT_PROD", 0, { sources: { 0: "F16 6,16,2" } }, "src[0].ne[2] must be src[1].ne[2]"],
  ]
  for (const [op, index, change, expected] of cases) {
    test(`${op}: ${expected}`, () => {
      expect(check(changedNode(op, index, change))).toContain(expected)
    })
  }

  test("strides that a kernel does not follow are refused", () => {
    const spread = (op: string, position: number): string =>
      check(validNodes.find((node) => node.op === op)!, (tensors) => {
        const tensor = tensors.at(position)!
        tensors[tensors.indexOf(tensor)] = { ...tensor, nb: tensor.nb.map((stride) => stride * 2) }
      })
    expect(spread("IM2COL", -1)).toContain("the result must be contiguous")
    expect(spread("SOFT_MAX", 0)).toContain("src[0] must be contiguous")
    expect(spread("SOFT_MAX", 1)).toContain("src[1] must be contiguous")
    expect(spread("RWKV_WKV7", 3)).toContain("src[3] must be contiguous")
  })

  test("operations of training alone are refused, but for a client's question how they are numbered", () => {
    const ofTraining = validNodes.filter(
      ({ op }) => (opRules[op as OpName] as Partial<Ruled>).isTraining,
    )
    expect(ofTraining.length).toBeGreaterThan(8)
    for (const node of ofTraining) {
      expect(check(node, () => {}, false)).toContain("--allow-training")
      const named = (tensors: RpcTensor[]): void => {
        tensors[tensors.length - 1] = { ...tensors.at(-1)!, name: NUMBERING_PROBE }
      }
      expect(check(node, named, false)).toBe("")
    }
  })

  test("attention's gradient, which this version cannot build, is refused", () => {
    const node = {
      op: "FLASH_ATTN_BACK",
      result: "F32 8",
      sources: ["F32 8", "F32 8", "F32 8", "F32 8"],
    }
    expect(check(node)).toContain("ggml has no way to build it")
  })
})
