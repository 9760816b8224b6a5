/** Operations on each element, copies among them, and rows that are made of parameters. */
import { RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  elementwise,
  INT_MAX,
  type OpRules,
  optional,
  rowAThread,
  ruled,
  training,
} from "./rule.ts"
import { F32, I32 } from "./types.ts"

const binary: Check = (n) => n.same(RESULT, 0) || n.repeats(1, 0)

const sameNumber: Check = (n) =>
  n.must(n.elements(RESULT) === n.elements(0), "the result must have as many elements as src[0]")

const copy: Check = (n) =>
  sameNumber(n) ||
  // Quantized rows are copied by blocks, not by elements.
  (n.isQuantized(0) ? n.denseRows(0) : "") ||
  (n.isQuantized(RESULT) ? n.denseRows(RESULT) : "") ||
  (n.isQuantized(0) && !n.isContiguous(RESULT) ? n.sameDim(RESULT, 0, 0, 0) : "")

/** DUP and CONT keep the type: no kernel converts into every type. */
const copyOfType: Check = (n) => n.sameType(RESULT, 0) || copy(n)

/** ACC and SET write src[1] into a view of the result that op_params describe. */
const intoView: Check = (n) => {
  const wrong =
    n.same(RESULT, 0) || n.contiguous(RESULT) || n.contiguous(0) || n.ranges(0, 3, 0, INT_MAX)
  if (wrong !== "" || n.elements(1) === 0) return wrong
  let reach = n.param(3) + n.ne(1, 0) * n.typeSize(RESULT)
  for (let dim = 1; dim < 4; dim++) reach += (n.ne(1, dim) - 1) * n.param(dim - 1)
  return n.must(
    reach <= n.bytes(RESULT) && n.elements(1) <= n.elements(0),
    "op_params must describe a view inside the result",
  )
}

const glu: Check = (n) =>
  n.sameType(RESULT, 0) ||
  n.denseRows(0) ||
  (n.has(1)
    ? n.same(0, 1) || n.sameType(1, 0) || n.denseRows(1) || n.same(RESULT, 0)
    : n.shape(RESULT, Math.floor(n.ne(0, 0) / 2), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))) ||
  n.denseRows(RESULT)

/** The planner of work memory looks at src[1], which says again what the result is. */
const copyInto: Check = (n) => n.same(RESULT, 1) || n.sameType(RESULT, 1) || copy(n)

export const arithmeticRules = {
  DUP: ruled({
    result: anything,
    sources: [anything],
    check: copyOfType,
    work: rowAThread(RESULT),
  }),
  CPY: ruled({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    check: copyInto,
    work: rowAThread(RESULT),
  }),
  CONT: ruled({ result: anything, sources: [anything], check: copyOfType }),
  ADD: ruled({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    check: binary,
    work: rowAThread(0),
  }),
  ADD_ID: ruled({
    result: anything,
    sources: [anything, anything, anything],
    inPlace: [0],
    check: (n) =>
      n.same(RESULT, 0) ||
      n.typed(2, I32) ||
      n.sameDim(1, 0, 0, 0) ||
      n.sameDim(2, 0, 0, 1) ||
      n.sameDim(2, 1, 0, 2),
    work: rowAThread(0),
    indices: [{ source: 2, into: 1, dim: 1 }],
  }),
  ADD1: ruled({
    result: anything,
    sources: [anything, anything],
    inPlace: [0],
    check: (n) => n.same(RESULT, 0) || n.scalar(1),
    work: rowAThread(0),
  }),
  ACC: ruled({
    result: anything,
    sources: [anything, anything],
    inPlace: [0],
    check: intoView,
    work: rowAThread(1),
  }),
  SET: ruled({ result: anything, sources: [anything, anything], inPlace: [0], check: intoView }),
  SUB: ruled({ result: anything, sources: [anything, anything], inPlace: [0, 1], check: binary }),
  MUL: ruled({ result: anything, sources: [anything, anything], inPlace: [0, 1], check: binary }),
  DIV: ruled({ result: anything, sources: [anything, anything], inPlace: [0, 1], check: binary }),
  SQR: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  SQRT: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  LOG: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  SIN: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  COS: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  SILU_BACK: training({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    check: (n) => n.same(RESULT, 0) || n.same(1, 0),
  }),
  SCALE: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  CLAMP: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  LEAKY_RELU: ruled({ result: anything, sources: [anything], inPlace: [0], check: elementwise }),
  UNARY: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.same(RESULT, 0) || n.denseRows(0) || n.denseRows(RESULT),
  }),
  GLU: ruled({
    result: anything,
    sources: [anything, optional(anything)],
    inPlace: [0],
    check: glu,
  }),
  FILL: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: (n) => n.same(RESULT, 0) || n.contiguous(RESULT),
  }),
  ARANGE: ruled({
    result: anything,
    sources: [],
    check: (n) => n.typed(RESULT, F32) || n.vector(RESULT),
  }),
  TIMESTEP_EMBEDDING: ruled({
    result: anything,
    sources: [anything],
    check: (n) =>
      n.range(0, 1, INT_MAX) ||
      n.range(1, 1, INT_MAX) ||
      n.typed(0, F32) ||
      n.vector(0) ||
      n.typed(RESULT, F32) ||
      n.shape(RESULT, n.param(0), n.ne(0, 0), 1, 1),
  }),
} satisfies OpRules
