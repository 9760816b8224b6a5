/** Attention and what belongs to it: positions, masks, windows. */
import { RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  FLOAT,
  INT_MAX,
  type OpRules,
  optional,
  refused,
  rowAThread,
  ruled,
  training,
  type Work,
} from "./rule.ts"
import { F16, F32, I32 } from "./types.ts"

const softMax: Check = (n) =>
  n.same(RESULT, 0) ||
  n.contiguous(0) ||
  (n.has(1)
    ? n.typed(1, F16, F32) ||
      n.contiguous(1) ||
      n.sameDim(1, 0, 0, 0) ||
      n.must(n.ne(1, 1) >= n.ne(0, 1), "src[1].ne[1] must be at least src[0].ne[1]") ||
      n.divides(1, 2, 0, 2) ||
      n.divides(1, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[1]")) ||
  (n.has(2) ? n.typed(2, F32) || n.sameDim(2, 0, 0, 2) || n.denseRows(2) : "")

const ROPE_MROPE = 8
const ROPE_VISION = 24

const rope: Check = (n) => {
  const mode = n.param(2)
  const isVision = mode === ROPE_VISION
  const perToken = (mode & ROPE_MROPE) === 0 ? 1 : 4
  const dims = n.param(1)
  const width = n.ne(0, 0)
  return (
    n.same(RESULT, 0) ||
    n.vector(1) ||
    n.typed(1, I32) ||
    n.must(
      n.ne(1, 0) === n.ne(0, 2) * perToken,
      `src[1].ne[0] must be src[0].ne[2] times ${perToken}`,
    ) ||
    n.range(1, 0, isVision ? Math.floor(width / 2) : width) ||
    n.range(15, 0, isVision ? 0 : width - dims) ||
    (n.has(2)
      ? n.typed(2, F32) || n.must(n.ne(2, 0) >= dims / 2, "src[2] must have a factor per pair")
      : "")
  )
}

const flashAttention: Check = (n) =>
  n.sameDim(1, 0, 0, 0) ||
  n.sameDim(2, 1, 1, 1) ||
  n.divides(1, 2, 0, 2) ||
  n.divides(2, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.sameDim(2, 3, 0, 3) ||
  (n.has(3)
    ? n.typed(3, F16) ||
      n.contiguous(3) ||
      n.must(n.ne(3, 0) >= n.ne(1, 1), "src[3].ne[0] must be at least src[1].ne[1]") ||
      n.must(n.ne(3, 1) >= n.ne(0, 1), "src[3].ne[1] must be at least src[0].ne[1]") ||
      n.divides(3, 2, 0, 2) ||
      n.divides(3, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[3]")) ||
  (n.has(4) ? n.typed(4, F32) || n.sameDim(4, 0, 0, 2) : "") ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(2, 0), n.ne(0, 2), n.ne(0, 1), n.ne(0, 3)) ||
  n.contiguous(RESULT)

const windowCount = (size: number, window: number): number => Math.ceil(size / window)

const winPart: Check = (n) => {
  const wrong =
    n.range(2, 1, INT_MAX) || n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")
  if (wrong !== "") return wrong
  const window = n.param(2)
  const [across, down] = [windowCount(n.ne(0, 1), window), windowCount(n.ne(0, 2), window)]
  return (
    n.range(0, across, across) ||
    n.range(1, down, down) ||
    n.typed(0, F32) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, n.ne(0, 0), window, window, across * down) ||
    n.contiguous(0) ||
    n.contiguous(RESULT)
  )
}

const winUnpart: Check = (n) => {
  const wrong = n.range(0, 1, INT_MAX) || n.typed(0, F32) || n.typed(RESULT, F32)
  if (wrong !== "") return wrong
  const window = n.param(0)
  const count = windowCount(n.ne(RESULT, 1), window) * windowCount(n.ne(RESULT, 2), window)
  return (
    n.shape(0, n.ne(RESULT, 0), window, window, count) ||
    n.must(n.ne(RESULT, 3) === 1, "the result must have three dimensions") ||
    n.contiguous(0) ||
    n.contiguous(RESULT)
  )
}

const getRelPos: Check = (n) =>
  n.typed(RESULT, F16) ||
  n.must(
    n.ne(RESULT, 1) === n.ne(RESULT, 2) && 2 * n.ne(RESULT, 1) - 1 === n.ne(0, 1),
    "src[0].ne[1] must be twice the result's ne[1] less 1",
  ) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(RESULT, 1), n.ne(RESULT, 2), 1) ||
  n.contiguous(0) ||
  n.contiguous(RESULT)

const addRelPos: Check = (n) =>
  n.same(RESULT, 0) ||
  n.same(1, 2) ||
  n.typed(0, F32) ||
  n.typed(RESULT, F32) ||
  n.typed(1, F32) ||
  n.typed(2, F32) ||
  n.contiguous(0) ||
  n.contiguous(1) ||
  n.contiguous(2) ||
  n.contiguous(RESULT) ||
  n.sameDim(1, 3, 0, 2) ||
  n.must(n.ne(1, 0) ** 2 === n.ne(0, 0), "src[0].ne[0] must be the square of src[1].ne[0]") ||
  n.must(
    n.ne(1, 1) * n.ne(1, 2) === n.ne(0, 1),
    "src[0].ne[1] must be src[1]'s ne[1] times ne[2]",
  ) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")

const lightningIndexer: Check = (n) =>
  n.typed(0, F32) ||
  n.typed(2, F32) ||
  n.typed(3, F16) ||
  n.sameDim(1, 0, 0, 0) ||
  n.must(n.ne(1, 1) === 1, "src[1].ne[1] must be 1") ||
  n.sameDim(1, 3, 0, 3) ||
  n.shape(2, n.ne(0, 1), n.ne(0, 2), 1, n.ne(0, 3)) ||
  n.shape(3, n.ne(1, 2), n.ne(0, 2), 1, n.ne(3, 3)) ||
  n.divides(3, 3, 2, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(1, 2), n.ne(0, 2), 1, n.ne(0, 3)) ||
  n.contiguous(RESULT)

/** A tile of Flash Attention: `GGML_FA_TILE_Q` and `GGML_FA_TILE_KV`. */
const TILE = 64

const flashAttentionWork: Work = (n, threadCount) => {
  const [key, value] = [n.ne(1, 0), n.ne(2, 0)]
  const prompt = TILE * (2 * key + 2 * value + 2 * TILE)
  const token = n.ne(0, 2) * (2 + value) + key + 2 * value
  return FLOAT * threadCount * Math.max(prompt, token)
}

export const attentionRules = {
  SOFT_MAX: ruled({
    result: anything,
    sources: [anything, optional(anything), optional(anything)],
    inPlace: [0],
    check: softMax,
    work: rowAThread(RESULT),
  }),
  SOFT_MAX_BACK: training({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    check: (n) => n.same(RESULT, 0) || n.same(1, 0) || n.contiguous(0) || n.contiguous(1),
  }),
  ROPE: ruled({
    result: anything,
    sources: [anything, anything, optional(anything)],
    inPlace: [0],
    check: rope,
    work: rowAThread(RESULT),
  }),
  ROPE_BACK: ruled({
    result: anything,
    sources: [anything, anything, optional(anything)],
    inPlace: [0],
    check: rope,
    work: rowAThread(RESULT),
  }),
  FLASH_ATTN_EXT: ruled({
    result: anything,
    sources: [anything, anything, anything, optional(anything), optional(anything)],
    check: flashAttention,
    work: flashAttentionWork,
  }),
  FLASH_ATTN_BACK: refused("ggml has no way to build it in this version"),
  WIN_PART: ruled({ result: anything, sources: [anything], check: winPart }),
  WIN_UNPART: ruled({ result: anything, sources: [anything], check: winUnpart }),
  GET_REL_POS: ruled({ result: anything, sources: [anything], check: getRelPos }),
  ADD_REL_POS: ruled({
    result: anything,
    sources: [anything, anything, anything],
    inPlace: [0],
    check: addRelPos,
  }),
  LIGHTNING_INDEXER: ruled({
    result: anything,
    sources: [anything, anything, anything, anything],
    check: lightningIndexer,
    work: rowAThread(1),
  }),
} satisfies OpRules
