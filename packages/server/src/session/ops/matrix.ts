/** Products of matrices, and operations that know a diagonal. */
import { RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  FLOAT,
  INT_MAX,
  type OpRules,
  rowAThread,
  ruled,
  type Work,
} from "./rule.ts"
import { BF16, F16, F32, I32 } from "./types.ts"

const mulMat: Check = (n) =>
  n.sameDim(0, 0, 1, 0) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(1, 1), n.ne(1, 2), n.ne(1, 3)) ||
  n.contiguous(RESULT)

const mulMatId: Check = (n) =>
  n.typed(2, I32) ||
  n.must(n.ne(0, 3) === 1 && n.ne(1, 3) === 1, "src[0] and src[1] must have three dimensions") ||
  n.matrix(2) ||
  n.sameDim(2, 1, 1, 2) ||
  n.sameDim(0, 0, 1, 0) ||
  n.divides(1, 1, 2, 0) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(2, 0), n.ne(1, 2), 1) ||
  n.contiguous(RESULT)

const outProd: Check = (n) =>
  n.sameDim(0, 1, 1, 1) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 2), n.ne(1, 3))

const solveTri: Check = (n) =>
  n.typed(0, F32) ||
  n.typed(1, F32) ||
  n.contiguous(0) ||
  n.contiguous(1) ||
  n.sameDim(0, 0, 0, 1) ||
  n.sameDim(1, 1, 0, 1) ||
  n.sameDim(1, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.same(RESULT, 1) ||
  n.contiguous(RESULT)

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

export const matrixRules = {
  MUL_MAT: ruled({
    result: anything,
    sources: [anything, anything],
    check: mulMat,
    work: multiplied,
  }),
  MUL_MAT_ID: ruled({
    result: anything,
    sources: [anything, anything, anything],
    check: mulMatId,
    work: multipliedById,
    indices: [{ source: 2, into: 0, dim: 2 }],
  }),
  OUT_PROD: ruled({
    result: anything,
    sources: [anything, anything],
    check: outProd,
    work: rowAThread(0),
  }),
  DIAG: ruled({
    result: anything,
    sources: [anything],
    check: (n) =>
      n.must(n.ne(0, 1) === 1, "src[0].ne[1] must be 1") ||
      n.shape(RESULT, n.ne(0, 0), n.ne(0, 0), n.ne(0, 2), n.ne(0, 3)),
  }),
  DIAG_MASK_INF: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX),
  }),
  DIAG_MASK_ZERO: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX),
  }),
  TRI: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.range(0, 0, 3) || n.sameDim(0, 1, 0, 0) || n.contiguous(0) || n.same(RESULT, 0),
  }),
  SOLVE_TRI: ruled({ result: anything, sources: [anything, anything], check: solveTri }),
} satisfies OpRules
