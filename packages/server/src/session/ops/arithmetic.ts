/** Operations on each element, copies among them, and rows that are made of parameters. */
import { RESULT } from "./OpNode.ts"
import { type Check, elementwise, INT_MAX, type OpRules, rule } from "./rule.ts"
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

export const arithmeticRules: OpRules = {
  DUP: rule(1, copyOfType),
  CPY: rule(1, copy),
  CONT: rule(1, copyOfType),
  ADD: rule(2, binary),
  ADD_ID: rule(
    3,
    (n) =>
      n.same(RESULT, 0) ||
      n.typed(2, I32) ||
      n.sameDim(1, 0, 0, 0) ||
      n.sameDim(2, 0, 0, 1) ||
      n.sameDim(2, 1, 0, 2),
    [{ source: 2, into: 1, dim: 1 }],
  ),
  ADD1: rule(2, (n) => n.same(RESULT, 0) || n.scalar(1)),
  ACC: rule(2, intoView),
  SET: rule(2, intoView),
  SUB: rule(2, binary),
  MUL: rule(2, binary),
  DIV: rule(2, binary),
  SQR: rule(1, elementwise),
  SQRT: rule(1, elementwise),
  LOG: rule(1, elementwise),
  SIN: rule(1, elementwise),
  COS: rule(1, elementwise),
  SILU_BACK: rule(2, (n) => n.same(RESULT, 0) || n.same(1, 0)),
  SCALE: rule(1, elementwise),
  CLAMP: rule(1, elementwise),
  LEAKY_RELU: rule(1, elementwise),
  UNARY: rule(1, (n) => n.same(RESULT, 0) || n.denseRows(0) || n.denseRows(RESULT)),
  GLU: rule(1, glu),
  FILL: rule(1, (n) => n.same(RESULT, 0) || n.contiguous(RESULT)),
  ARANGE: rule(0, (n) => n.typed(RESULT, F32) || n.vector(RESULT)),
  TIMESTEP_EMBEDDING: rule(
    1,
    (n) =>
      n.range(0, 1, INT_MAX) ||
      n.range(1, 1, INT_MAX) ||
      n.typed(0, F32) ||
      n.vector(0) ||
      n.typed(RESULT, F32) ||
      n.shape(RESULT, n.param(0), n.ne(0, 0), 1, 1),
  ),
}
