/** Products of matrices, and operations that know a diagonal. */
import { RESULT } from "./OpNode.ts"
import { type Check, INT_MAX, type OpRules, rule } from "./rule.ts"
import { F32, I32 } from "./types.ts"

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

export const matrixRules: OpRules = {
  MUL_MAT: rule(2, mulMat),
  MUL_MAT_ID: rule(3, mulMatId, [{ source: 2, into: 0, dim: 2 }]),
  OUT_PROD: rule(2, outProd),
  DIAG: rule(
    1,
    (n) =>
      n.must(n.ne(0, 1) === 1, "src[0].ne[1] must be 1") ||
      n.shape(RESULT, n.ne(0, 0), n.ne(0, 0), n.ne(0, 2), n.ne(0, 3)),
  ),
  DIAG_MASK_INF: rule(1, (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX)),
  DIAG_MASK_ZERO: rule(1, (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX)),
  TRI: rule(
    1,
    (n) => n.range(0, 0, 3) || n.sameDim(0, 1, 0, 0) || n.contiguous(0) || n.same(RESULT, 0),
  ),
  SOLVE_TRI: rule(2, solveTri),
}
