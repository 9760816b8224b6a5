/** Products of matrices, and operations that know a diagonal. */
import { type OpNode, RESULT } from "./OpNode.ts"
import {
  type Check,
  FLOAT,
  f32,
  INT_MAX,
  type OpRules,
  orEmpty,
  rowAThread,
  ruled,
  tensor,
  type Work,
} from "./rule.ts"
import { BF16, F16, F32, factors, factorType, readable } from "./types.ts"

/** `GGML_HINT_SRC0_IS_HADAMARD`: the first factor is not read, its size is taken from the second one. */
const IS_HADAMARD = 1

const hadamard = (n: OpNode): string =>
  n.typed(1, F32, F16) ||
  n.must(
    n.ne(0, 1) === n.ne(0, 0) && Number.isInteger(Math.log2(n.ne(0, 0))),
    "src[0] must be a square with a power of 2 for its side, as op_params[1] says that it is a Hadamard matrix",
  )

/** The second factor is of the type that the first is multiplied with, or becomes so from floats. */
const factorTypes = (n: OpNode): string =>
  n.must(
    n.type(1) === F32 || n.type(1) === factorType[n.type(0)],
    `src[1] cannot be ${n.typeName(1)} where src[0] is ${n.typeName(0)}`,
  )

const mulMat: Check = (n) =>
  n.sameDim(0, 0, 1, 0) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  (n.param(1) === IS_HADAMARD ? hadamard(n) : factorTypes(n)) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(1, 1), n.ne(1, 2), n.ne(1, 3)) ||
  n.growingStrides(RESULT)

const mulMatId: Check = (n) =>
  n.must(n.ne(0, 3) === 1 && n.ne(1, 3) === 1, "src[0] and src[1] must have three dimensions") ||
  n.matrix(2) ||
  n.sameDim(2, 1, 1, 2) ||
  n.sameDim(0, 0, 1, 0) ||
  n.divides(1, 1, 2, 0) ||
  factorTypes(n) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(2, 0), n.ne(1, 2), 1) ||
  n.growingStrides(RESULT)

/** What a block of quantized activations takes an element, at most: `block_q8_K` has 292 bytes for 256. */
const QUANTIZED = 1.25

/** The second factor in the type that the first is multiplied with, and a panel of the first for each thread. */
const multiplied: Work = (n, threadCount) => {
  const type = n.type(0)
  const isHalf = type === F16 || type === BF16
  const element = n.isQuantized(0) ? QUANTIZED : n.type(1) === type ? 0 : isHalf ? 2 : FLOAT
  // `block_iqp_x8` has 2240 bytes for 256 columns of eight rows.
  const panels = n.isQuantized(0) ? 9 * n.ne(0, 0) * threadCount : 0
  return element * n.elements(1) + panels
}

/** And for each expert a count, a cache line, and a list of rows that may be as long as all ids. */
const multipliedById: Work = (n, threadCount) =>
  multiplied(n, threadCount) + n.ne(0, 2) * (8 + 64 + 8 * n.ne(2, 0) * n.ne(2, 1))

const outProd: Check = (n) =>
  n.sameDim(0, 1, 1, 1) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  // Only the kernel of floats repeats the first factor.
  (n.type(0) === F32 ? "" : n.sameDim(0, 2, 1, 2) || n.sameDim(0, 3, 1, 3)) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 2), n.ne(1, 3))

const solveTri: Check = (n) =>
  n.sameDim(0, 0, 0, 1) ||
  n.sameDim(1, 1, 0, 1) ||
  n.sameDim(1, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.same(RESULT, 1)

/** Planes of all dimensions are counted by nb[2]. */
const diagMask: Check = (n) =>
  n.same(RESULT, 0) || n.range(0, 0, INT_MAX) || n.planesAtOneDistance(RESULT)

const mask = ruled({
  result: f32("packed"),
  sources: [f32("packed")],
  inPlace: [0],
  check: diagMask,
})

export const matrixRules = {
  MUL_MAT: ruled({
    result: f32("packed"),
    sources: [
      orEmpty(tensor(factors, "rows")),
      orEmpty(tensor([...factors, "Q8_1", "Q8_K"], "rows")),
    ],
    check: mulMat,
    work: multiplied,
  }),
  MUL_MAT_ID: ruled({
    result: f32("packed"),
    sources: [
      tensor(factors, "rows"),
      tensor([...factors, "Q8_1", "Q8_K"], "rows"),
      tensor(["I32"], "strided"),
    ],
    check: mulMatId,
    work: multipliedById,
    indices: [{ source: 2, into: 0, dim: 2 }],
  }),
  OUT_PROD: ruled({
    result: f32("packed"),
    sources: [tensor(["F32", "F16", ...readable], "rows"), f32("strided")],
    check: outProd,
    work: rowAThread(0),
  }),
  DIAG: ruled({
    result: f32("rows"),
    sources: [f32("rows")],
    check: (n) =>
      n.must(n.ne(0, 1) === 1, "src[0].ne[1] must be 1") ||
      n.shape(RESULT, n.ne(0, 0), n.ne(0, 0), n.ne(0, 2), n.ne(0, 3)),
  }),
  DIAG_MASK_INF: mask,
  DIAG_MASK_ZERO: mask,
  TRI: ruled({
    result: f32("rows"),
    sources: [f32("contiguous")],
    check: (n) => n.range(0, 0, 3) || n.sameDim(0, 1, 0, 0) || n.same(RESULT, 0),
  }),
  SOLVE_TRI: ruled({
    result: f32("contiguous"),
    sources: [f32("contiguous"), f32("contiguous")],
    check: solveTri,
  }),
} satisfies OpRules
