/** Attention and what belongs to it: positions, masks, windows. */
import { RESULT } from "./OpNode.ts"
import {
  type Check,
  FLOAT,
  f32,
  INT_MAX,
  type OpRules,
  optional,
  reaching,
  refused,
  rowAThread,
  ruled,
  tensor,
  training,
  type Work,
} from "./rule.ts"
import { f16OrF32, factors } from "./types.ts"

const softMax: Check = (n) =>
  n.same(RESULT, 0) ||
  (n.has(1)
    ? n.sameDim(1, 0, 0, 0) ||
      n.must(n.ne(1, 1) >= n.ne(0, 1), "src[1].ne[1] must be at least src[0].ne[1]") ||
      n.divides(1, 2, 0, 2) ||
      n.divides(1, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[1]")) ||
  (n.has(2) ? n.sameDim(2, 0, 0, 2) : "")

const softMaxBack: Check = (n) =>
  n.same(RESULT, 0) || n.same(1, 0) || n.must(n.floatParam(1) === 0, "op_params[1] must be 0")

/** `GGML_ROPE_TYPE_…`; `op_params[2]`. */
const ropeMode = { normal: 0, neox: 2, mrope: 8, vision: 24, imrope: 40 } as const
const ROPE_MODES: readonly number[] = Object.values(ropeMode)
const NO_ROPE_MODE = `op_params[2] must be one of ${ROPE_MODES.join(", ")}`

/** Of four sections of a row that are turned by positions of their own; `op_params[11]` to `[14]`. */
const ropeSections: Check = (n) => {
  const wrong = n.ranges(11, 14, 0, n.ne(0, 0))
  if (wrong !== "") return wrong
  const first = n.param(11) + n.param(12) + n.param(13)
  return n.must(
    first > 0 && first + n.param(14) <= n.ne(0, 0),
    "op_params[11] to [14] must be sections of a row of src[0]",
  )
}

/**
 * Elements of a row that take part: two at a time, `op_params[1]` of them from `op_params[15]` on. The kernels copy the others
 * two at a time as well, past the end of a row with an odd number (ops.cpp `ggml_compute_forward_rope_flt`), and for ever
 * where none takes part.
 */
const ropeDimensions: Check = (n) => {
  const width = n.ne(0, 0)
  const dims = n.param(1)
  const isVision = n.param(2) === ropeMode.vision
  return (
    n.must(width % 2 === 0, "src[0].ne[0] must be even") ||
    (isVision ? n.range(1, width / 2, width / 2) : n.range(1, 2, width)) ||
    n.must(dims % 2 === 0, "op_params[1] must be even") ||
    n.range(15, 0, isVision ? 0 : width - dims) ||
    n.must(n.param(15) % 2 === 0, "op_params[15] must be even")
  )
}

/** Divisors of the positions: one for each pair that takes part. */
const ropeFactors: Check = (n) =>
  n.must(n.ne(2, 0) >= n.param(1) / 2, "src[2] must have a factor per pair")

const rope: Check = (n) => {
  const mode = n.param(2)
  const hasSections = (mode & ropeMode.mrope) !== 0
  const perToken = hasSections ? 4 : 1
  return (
    n.same(RESULT, 0) ||
    n.sameType(RESULT, 0) ||
    n.must(ROPE_MODES.includes(mode), NO_ROPE_MODE) ||
    n.vector(1) ||
    n.must(
      n.ne(1, 0) === n.ne(0, 2) * perToken,
      `src[1].ne[0] must be src[0].ne[2] times ${perToken}`,
    ) ||
    ropeDimensions(n) ||
    (hasSections ? ropeSections(n) : "") ||
    (n.has(2) ? ropeFactors(n) : "")
  )
}

/** `GGML_PREC_UNDEFINED` and `GGML_PREC_F32`, the only ones that the kernel takes. */
const PRECISIONS: readonly number[] = [0, 10]
const NO_PRECISION = `op_params[3] must be ${PRECISIONS.join(" or ")}`

const flashAttention: Check = (n) =>
  n.sameDim(1, 0, 0, 0) ||
  n.sameDim(2, 1, 1, 1) ||
  n.divides(1, 2, 0, 2) ||
  n.divides(2, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.sameDim(2, 3, 0, 3) ||
  (n.has(3)
    ? n.must(n.ne(3, 0) >= n.ne(1, 1), "src[3].ne[0] must be at least src[1].ne[1]") ||
      n.must(n.ne(3, 1) >= n.ne(0, 1), "src[3].ne[1] must be at least src[0].ne[1]") ||
      n.divides(3, 2, 0, 2) ||
      n.divides(3, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[3]")) ||
  (n.has(4) ? n.sameDim(4, 0, 0, 2) : "") ||
  n.must(PRECISIONS.includes(n.param(3)), NO_PRECISION) ||
  n.range(4, 0, INT_MAX) ||
  n.shape(RESULT, n.ne(2, 0), n.ne(0, 2), n.ne(0, 1), n.ne(0, 3))

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
    n.shape(RESULT, n.ne(0, 0), window, window, across * down)
  )
}

const winUnpart: Check = (n) => {
  const wrong = n.range(0, 1, INT_MAX)
  if (wrong !== "") return wrong
  const window = n.param(0)
  const count = windowCount(n.ne(RESULT, 1), window) * windowCount(n.ne(RESULT, 2), window)
  return (
    n.shape(0, n.ne(RESULT, 0), window, window, count) ||
    n.must(n.ne(RESULT, 3) === 1, "the result must have three dimensions")
  )
}

const getRelPos: Check = (n) =>
  n.must(
    n.ne(RESULT, 1) === n.ne(RESULT, 2) && 2 * n.ne(RESULT, 1) - 1 === n.ne(0, 1),
    "src[0].ne[1] must be twice the result's ne[1] less 1",
  ) || n.shape(RESULT, n.ne(0, 0), n.ne(RESULT, 1), n.ne(RESULT, 2), 1)

const addRelPos: Check = (n) =>
  n.same(RESULT, 0) ||
  n.same(1, 2) ||
  n.sameDim(1, 3, 0, 2) ||
  n.must(n.ne(1, 0) ** 2 === n.ne(0, 0), "src[0].ne[0] must be the square of src[1].ne[0]") ||
  n.must(
    n.ne(1, 1) * n.ne(1, 2) === n.ne(0, 1),
    "src[0].ne[1] must be src[1]'s ne[1] times ne[2]",
  ) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")

const lightningIndexer: Check = (n) =>
  n.sameDim(1, 0, 0, 0) ||
  n.must(n.ne(1, 1) === 1, "src[1].ne[1] must be 1") ||
  n.sameDim(1, 3, 0, 3) ||
  n.shape(2, n.ne(0, 1), n.ne(0, 2), 1, n.ne(0, 3)) ||
  n.shape(3, n.ne(1, 2), n.ne(0, 2), 1, n.ne(3, 3)) ||
  n.divides(3, 3, 2, 3) ||
  n.shape(RESULT, n.ne(1, 2), n.ne(0, 2), 1, n.ne(0, 3))

/** A tile of Flash Attention: `GGML_FA_TILE_Q` and `GGML_FA_TILE_KV`. */
const TILE = 64

const flashAttentionWork: Work = (n, threadCount) => {
  const [key, value] = [n.ne(1, 0), n.ne(2, 0)]
  const prompt = TILE * (2 * key + 2 * value + 2 * TILE)
  const token = n.ne(0, 2) * (2 + value) + key + 2 * value
  return FLOAT * threadCount * Math.max(prompt, token)
}

const roped = {
  result: tensor(f16OrF32, "rows"),
  sources: [
    tensor(f16OrF32, "rows"),
    tensor(["I32"], "contiguous"),
    // Kernels look at a factor for every pair of a row, and use those of `ropeDimensions` (ops.cpp `ggml_rope_cache_init`).
    optional(reaching(f32("contiguous"), (n) => (FLOAT * n.ne(0, 0)) / 2)),
  ],
  inPlace: [0],
  check: rope,
  work: rowAThread(RESULT),
}

export const attentionRules = {
  SOFT_MAX: ruled({
    result: f32("contiguous"),
    sources: [
      f32("contiguous"),
      optional(tensor(f16OrF32, "contiguous")),
      optional(f32("contiguous")),
    ],
    inPlace: [0, 1],
    check: softMax,
    work: rowAThread(RESULT),
  }),
  SOFT_MAX_BACK: training({
    result: f32("packed"),
    sources: [f32("packed"), f32("packed")],
    inPlace: [0, 1],
    check: softMaxBack,
  }),
  ROPE: ruled(roped),
  ROPE_BACK: ruled(roped),
  FLASH_ATTN_EXT: ruled({
    // A row is copied by `nb[1]` bytes, and strides that shrink are asserted.
    result: f32("exact"),
    sources: [
      f32("rows"),
      tensor(factors, "rows"),
      tensor(factors, "rows"),
      optional(tensor(["F16"], "contiguous")),
      optional(f32("contiguous")),
    ],
    check: flashAttention,
    work: flashAttentionWork,
  }),
  FLASH_ATTN_BACK: refused("ggml has no way to build it in this version"),
  WIN_PART: ruled({ result: f32("contiguous"), sources: [f32("contiguous")], check: winPart }),
  WIN_UNPART: ruled({ result: f32("contiguous"), sources: [f32("contiguous")], check: winUnpart }),
  GET_REL_POS: ruled({
    result: tensor(["F16"], "contiguous"),
    sources: [tensor(["F16", "BF16"], "contiguous")],
    check: getRelPos,
  }),
  ADD_REL_POS: ruled({
    result: f32("contiguous"),
    sources: [f32("contiguous"), f32("contiguous"), f32("contiguous")],
    inPlace: [0],
    check: addRelPos,
  }),
  LIGHTNING_INDEXER: ruled({
    result: f32("rows"),
    sources: [f32("rows"), tensor(factors, "rows"), f32("rows"), tensor(["F16"], "rows")],
    check: lightningIndexer,
    work: rowAThread(1),
  }),
} satisfies OpRules
