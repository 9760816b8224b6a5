/** Operations along rows, and those that choose rows by their index. */
import { RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  elementwise,
  type OpRules,
  optional,
  orEmpty,
  rowAThread,
  ruled,
  training,
} from "./rule.ts"
import { F16, F32, I32, I64 } from "./types.ts"

const rowsToOne: Check = (n) => n.shape(RESULT, 1, n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const getRows: Check = (n) =>
  n.typed(1, I32) ||
  n.sameDim(0, 2, 1, 1) ||
  n.sameDim(0, 3, 1, 2) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  n.typed(RESULT, n.type(0) === I32 ? I32 : F32) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 1), n.ne(1, 2))

const setRows: Check = (n) =>
  n.typed(0, F32, F16) ||
  n.typed(1, I64, I32) ||
  n.sameDim(RESULT, 0, 0, 0) ||
  n.sameDim(RESULT, 2, 0, 2) ||
  n.sameDim(RESULT, 3, 0, 3) ||
  n.sameDim(1, 0, 0, 1) ||
  n.divides(1, 1, 0, 2) ||
  n.divides(1, 2, 0, 3) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  n.denseRows(0) ||
  n.denseRows(RESULT) ||
  (n.has(2) ? n.same(RESULT, 2) : "")

export const rowsRules = {
  SUM: ruled({ result: anything, sources: [anything], check: (n) => n.scalar(RESULT) }),
  SUM_ROWS: ruled({ result: anything, sources: [anything], check: rowsToOne }),
  CUMSUM: ruled({ result: anything, sources: [anything], check: elementwise }),
  MEAN: ruled({ result: anything, sources: [anything], check: rowsToOne }),
  ARGMAX: ruled({
    result: anything,
    sources: [anything],
    check: (n) => n.typed(RESULT, I32) || n.matrix(0) || n.shape(RESULT, n.ne(0, 1), 1, 1, 1),
  }),
  COUNT_EQUAL: training({
    result: anything,
    sources: [anything, anything],
    check: (n) => n.same(1, 0) || n.typed(RESULT, I64) || n.scalar(RESULT),
  }),
  NORM: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  RMS_NORM: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  RMS_NORM_BACK: training({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    check: (n) => n.same(RESULT, 0) || n.same(1, 0),
  }),
  GROUP_NORM: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.range(0, 1, 2 ** 20) || n.same(RESULT, 0),
  }),
  L2_NORM: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  ARGSORT: ruled({
    result: anything,
    sources: [anything],
    check: (n) => n.typed(RESULT, I32) || n.range(0, 0, 1) || n.same(RESULT, 0),
  }),
  TOP_K: ruled({
    result: anything,
    sources: [anything],
    check: (n) =>
      n.typed(RESULT, I32) ||
      n.must(n.ne(RESULT, 0) <= n.ne(0, 0), "the result must not be wider than src[0]") ||
      n.shape(RESULT, n.ne(RESULT, 0), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3)),
    work: rowAThread(0),
  }),
  GET_ROWS: ruled({
    result: anything,
    sources: [anything, anything],
    check: getRows,
    indices: [{ source: 1, into: 0, dim: 1 }],
  }),
  GET_ROWS_BACK: training({
    result: anything,
    sources: [anything, anything],
    check: (n) =>
      n.matrix(0) ||
      n.vector(1) ||
      n.typed(1, I32) ||
      n.contiguous(1) ||
      n.must(n.ne(0, 1) >= n.ne(1, 0), "src[0] must have a row per index") ||
      n.typed(RESULT, F32) ||
      n.matrix(RESULT) ||
      n.sameDim(RESULT, 0, 0, 0) ||
      n.contiguous(RESULT),
    indices: [{ source: 1, into: RESULT, dim: 1 }],
  }),
  SET_ROWS: ruled({
    result: anything,
    sources: [orEmpty(anything), orEmpty(anything), optional(anything)],
    inPlace: [2],
    check: setRows,
    work: rowAThread(0),
    indices: [{ source: 1, into: RESULT, dim: 1 }],
  }),
} satisfies OpRules
