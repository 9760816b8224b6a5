import { TYPE_BLOCK_SIZE } from "@ggml-rpc/protocol"
import { type OpNode, RESULT } from "../ops/OpNode.ts"
import { byOpId } from "../ops/table.ts"
import { BF16, F16 } from "../ops/types.ts"
import { loaded } from "../spoken.ts"

/** Bytes of a float, which most of this memory holds. */
const FLOAT = 4

/** What a block of quantized activations takes an element, at most: `block_q8_K` has 292 bytes for 256. */
const QUANTIZED = 1.25

/** A tile of Flash Attention: `GGML_FA_TILE_Q` and `GGML_FA_TILE_KV`. */
const TILE = 64

/** `GGML_IM2COL_WORK_SIZE`. */
const CONVOLUTION = 16 * 1024 * 1024

/** Bytes that the kernel of one operation takes beside its tensors, at most. */
type WorkRule = (node: OpNode, threadCount: number) => number

/** A row of floats of `tensor` for each thread. */
const rowAThread =
  (tensor: number): WorkRule =>
  (node, threadCount) =>
    FLOAT * node.ne(tensor, 0) * threadCount

/** The second factor in the type that the first is multiplied with, and a panel of the first for each thread. */
const multiplied: WorkRule = (node, threadCount) => {
  const type = node.type(0)
  const isQuantized = TYPE_BLOCK_SIZE[type]! > 1
  const isHalf = type === F16 || type === BF16
  const element = isQuantized ? QUANTIZED : node.type(1) === type ? 0 : isHalf ? 2 : FLOAT
  // `block_iqp_x8` has 2240 bytes for 256 columns of eight rows.
  const panels = isQuantized ? 9 * node.ne(0, 0) * threadCount : 0
  return element * node.elements(1) + panels
}

const bothSources: WorkRule = (node) => FLOAT * (node.elements(0) + node.elements(1))

const rules: Readonly<Record<string, WorkRule>> = {
  CPY: rowAThread(RESULT),
  DUP: rowAThread(RESULT),
  ADD: rowAThread(0),
  ADD_ID: rowAThread(0),
  ADD1: rowAThread(0),
  ACC: rowAThread(1),
  OUT_PROD: rowAThread(0),
  SET_ROWS: rowAThread(0),
  SOFT_MAX: rowAThread(RESULT),
  ROPE: rowAThread(RESULT),
  ROPE_BACK: rowAThread(RESULT),
  TOP_K: rowAThread(0),
  LIGHTNING_INDEXER: rowAThread(1),
  CROSS_ENTROPY_LOSS: (node, threadCount) => FLOAT * (1 + node.ne(0, 0)) * threadCount,
  MUL_MAT: multiplied,
  MUL_MAT_ID: (node, threadCount) =>
    // For each expert a count, a cache line, and a list of rows that may be as long as all ids.
    multiplied(node, threadCount) + node.ne(0, 2) * (8 + 64 + 8 * node.ne(2, 0) * node.ne(2, 1)),
  CONV_TRANSPOSE_1D: bothSources,
  CONV_TRANSPOSE_2D: bothSources,
  CONV_2D: () => CONVOLUTION,
  CONV_3D: () => CONVOLUTION,
  FLASH_ATTN_EXT: (node, threadCount) => {
    const [key, value] = [node.ne(1, 0), node.ne(2, 0)]
    const prompt = TILE * (2 * key + 2 * value + 2 * TILE)
    const token = node.ne(0, 2) * (2 + value) + key + 2 * value
    return FLOAT * threadCount * Math.max(prompt, token)
  },
  GATED_DELTA_NET: (node, threadCount) => {
    const size = node.ne(2, 0)
    return FLOAT * threadCount * (size + size * size)
  },
}

/** By op id of the loaded ggml. */
const byOp = byOpId(rules, loaded.ops)

/**
 * Bytes that ggml's CPU backend takes to compute a node, besides its tensors and 64 a thread: at least what
 * `ggml_graph_plan` in ggml-cpu.c asks for (llama.cpp v0.5.0). It depends on shapes alone, and with strides of 0 a
 * few bytes of a buffer have any shape.
 */
export const workBytes = (node: OpNode, op: number, threadCount: number): number =>
  byOp[op]?.(node, threadCount) ?? 0
