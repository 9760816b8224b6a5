/** Operations along rows, and those that choose rows by their index. */
import { RESULT } from "./OpNode.ts"
import {
  type Check,
  elementwise,
  f32,
  type OpRules,
  optional,
  orEmpty,
  rowAThread,
  ruled,
  tensor,
  training,
} from "./rule.ts"
import { F32, f16OrF32, floats, I32, readable, writable } from "./types.ts"

const rowsToOne: Check = (n) => n.shape(RESULT, 1, n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

/** `eps`, which a kernel asserts; no number is not at least 0 either. */
const norm: Check = (n) =>
  n.same(RESULT, 0) || n.must(n.floatParam(0) >= 0, "op_params[0] must be 0.0 or more")

/** The kernel loses its way where rows have three dimensions (ops.cpp, `count_equal_i32`). */
const countEqual: Check = (n) => n.same(1, 0) || n.matrix(0) || n.scalar(RESULT)

const argsort: Check = (n) => n.range(0, 0, 1) || n.same(RESULT, 0)

const topK: Check = (n) =>
  n.must(n.ne(RESULT, 0) <= n.ne(0, 0), "the result must not be wider than src[0]") ||
  n.shape(RESULT, n.ne(RESULT, 0), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const getRows: Check = (n) =>
  n.sameDim(0, 2, 1, 1) ||
  n.sameDim(0, 3, 1, 2) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  n.typed(RESULT, n.type(0) === I32 ? I32 : F32) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 1), n.ne(1, 2))

const setRows: Check = (n) =>
  n.sameDim(RESULT, 0, 0, 0) ||
  n.sameDim(RESULT, 2, 0, 2) ||
  n.sameDim(RESULT, 3, 0, 3) ||
  n.sameDim(1, 0, 0, 1) ||
  n.divides(1, 1, 0, 2) ||
  n.divides(1, 2, 0, 3) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  (n.has(2) ? n.same(RESULT, 2) : "")

const getRowsBack: Check = (n) =>
  n.matrix(0) ||
  n.vector(1) ||
  n.must(n.ne(0, 1) >= n.ne(1, 0), "src[0] must have a row per index") ||
  n.matrix(RESULT) ||
  n.sameDim(RESULT, 0, 0, 0)

export const rowsRules = {
  SUM: ruled({
    result: tensor(floats, "strided"),
    // ops.cpp ggml_compute_forward_sum takes rows for dense. Where their elements lie further apart it reads less far than
    // these reach, and sums others: test-backend-ops has such a node.
    sources: [tensor(floats, "strided")],
    check: (n) =>
      n.scalar(RESULT) ||
      n.sameType(RESULT, 0) ||
      n.must(n.nb(0, 0) >= n.typeSize(0), "src[0].nb[0] must be at least the size of an element"),
  }),
  SUM_ROWS: ruled({ result: f32("rows"), sources: [f32("rows")], check: rowsToOne }),
  CUMSUM: ruled({ result: f32("rows"), sources: [f32("rows")], check: elementwise }),
  MEAN: ruled({ result: f32("rows"), sources: [f32("rows")], check: rowsToOne }),
  ARGMAX: ruled({
    result: tensor(["I32"], "rows"),
    sources: [f32("rows")],
    check: (n) => n.matrix(0) || n.shape(RESULT, n.ne(0, 1), 1, 1, 1),
  }),
  COUNT_EQUAL: training({
    result: tensor(["I64"], "strided"),
    sources: [tensor(["I32"], "strided"), tensor(["I32"], "strided")],
    check: countEqual,
    work: (_, threadCount) => 8 * threadCount,
  }),
  NORM: ruled({ result: f32("strided"), sources: [f32("strided")], inPlace: [0], check: norm }),
  RMS_NORM: ruled({ result: f32("rows"), sources: [f32("rows")], inPlace: [0], check: norm }),
  RMS_NORM_BACK: training({
    result: f32("rows"),
    sources: [f32("rows"), f32("rows")],
    inPlace: [0, 1],
    check: (n) => n.same(RESULT, 0) || n.same(1, 0),
  }),
  GROUP_NORM: ruled({
    result: f32("rows"),
    sources: [f32("rows")],
    inPlace: [0],
    check: (n) => n.range(0, 1, 2 ** 20) || n.same(RESULT, 0),
  }),
  L2_NORM: ruled({ result: f32("strided"), sources: [f32("strided")], inPlace: [0], check: norm }),
  ARGSORT: ruled({
    result: tensor(["I32"], "pitched"),
    sources: [f32("pitched")],
    check: argsort,
  }),
  TOP_K: ruled({
    result: tensor(["I32"], "pitched"),
    sources: [f32("pitched")],
    check: topK,
    work: rowAThread(0),
  }),
  GET_ROWS: ruled({
    result: tensor(["F32", "I32"], "rows"),
    sources: [tensor([...floats, "I32", ...readable], "rows"), tensor(["I32"], "strided")],
    check: getRows,
    indices: [{ source: 1, into: 0, dim: 1 }],
  }),
  GET_ROWS_BACK: training({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "rows"), tensor(["I32"], "contiguous")],
    check: getRowsBack,
    indices: [{ source: 1, into: RESULT, dim: 1 }],
  }),
  SET_ROWS: ruled({
    result: tensor([...floats, "I32", ...writable], "rows"),
    sources: [
      orEmpty(tensor(f16OrF32, "rows")),
      orEmpty(tensor(["I64", "I32"], "strided")),
      optional(tensor([...floats, "I32", ...writable], "rows")),
    ],
    inPlace: [2],
    check: setRows,
    work: rowAThread(0),
    indices: [{ source: 1, into: RESULT, dim: 1 }],
  }),
} satisfies OpRules
