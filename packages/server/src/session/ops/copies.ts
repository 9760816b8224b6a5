/** Copies, into another type or into a part of another tensor. */
import { type OpNode, RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  f32,
  INT_MAX,
  type OpRules,
  orEmpty,
  rowAThread,
  ruled,
  tensor,
} from "./rule.ts"
import { allTypes, among, F32, floats, I32, readable, writable } from "./types.ts"

const isReadable = among(readable)
const isWritable = among(writable)
const isFloat = among(floats)

/** Blocks are moved as a whole: by rows, one after the other, or into a result of other strides. */
const copyBlocks = (n: OpNode): string => {
  if (!n.isContiguous(RESULT)) return ""
  if (n.isContiguous(0)) return ""
  return n.same(RESULT, 0) || n.denseRows(0) || n.denseRows(RESULT)
}

/** `ggml_compute_forward_dup_to_q`: each row of the source through floats, for which there is room as in a row of the result. */
const quantize = (n: OpNode): string =>
  n.denseRows(0) ||
  n.denseRows(RESULT) ||
  n.contiguous(RESULT) ||
  n.must(
    n.ne(0, 0) % n.blockSize(RESULT) === 0,
    "src[0].ne[0] must be whole blocks of the result's type",
  ) ||
  n.must(n.ne(0, 0) <= n.ne(RESULT, 0), "src[0] must not have longer rows than a quantized result")

/** `ggml_compute_forward_dup_from_q`, block by block. */
const dequantize = (n: OpNode): string =>
  n.denseRows(RESULT) ||
  n.must(
    n.ne(RESULT, 0) % n.blockSize(0) === 0 || n.isContiguous(RESULT),
    "the result's rows must be whole blocks of src[0]'s type",
  )

const convert = (n: OpNode): string => {
  const [from, to] = [n.type(0), n.type(RESULT)]
  if (isFloat[from] && isFloat[to]) return ""
  if ((from === F32 && to === I32) || (from === I32 && to === F32)) return ""
  if (isFloat[from] && isWritable[to]) return quantize(n)
  if (isReadable[from] && to === F32) return dequantize(n)
  return `nothing converts ${n.typeName(0)} into ${n.typeName(RESULT)}`
}

const copy: Check = (n) =>
  n.must(n.elements(RESULT) === n.elements(0), "the result must have as many elements as src[0]") ||
  (n.type(RESULT) !== n.type(0) ? convert(n) : n.isQuantized(0) ? copyBlocks(n) : "")

/** DUP and CONT keep the type: what converts looks at src[1], or needs work memory that they are not given. */
const copyOfType: Check = (n) => n.sameType(RESULT, 0) || copy(n)

/** ACC and SET write src[1] into a view of the result that op_params describe. */
const intoView: Check = (n) => {
  const wrong =
    n.same(RESULT, 0) || n.sameType(RESULT, 0) || n.sameType(1, 0) || n.ranges(0, 3, 0, INT_MAX)
  if (wrong !== "") return wrong
  const element = n.typeSize(RESULT)
  let last = n.param(3) + Math.max(0, n.ne(1, 0) - 1) * element
  let isAligned = n.param(3) % element === 0
  for (let dim = 1; dim < 4; dim++) {
    const stride = n.param(dim - 1)
    last += Math.max(0, n.ne(1, dim) - 1) * stride
    if (stride % element !== 0) isAligned = false
  }
  return (
    n.must(isAligned, "op_params must be multiples of an element's size") ||
    n.must(
      last + element <= n.bytes(RESULT) && n.elements(1) <= n.elements(0),
      "op_params must describe a view inside the result",
    )
  )
}

export const copyRules = {
  DUP: ruled({
    result: anything,
    sources: [anything],
    inPlace: [0],
    check: copyOfType,
    work: rowAThread(RESULT),
  }),
  CPY: ruled({
    result: anything,
    sources: [anything, anything],
    inPlace: [0, 1],
    // From which kernels and the planner of work memory read what the result is (ops.cpp, `dup_from_q`).
    over: 1,
    check: copy,
    work: rowAThread(RESULT),
  }),
  CONT: ruled({
    result: tensor(allTypes, "contiguous"),
    sources: [anything],
    check: copyOfType,
  }),
  ACC: ruled({
    result: f32("contiguous"),
    sources: [f32("contiguous"), orEmpty(f32("rows"))],
    inPlace: [0],
    check: intoView,
    work: rowAThread(1),
  }),
  SET: ruled({
    result: tensor(["F32", "I32"], "contiguous"),
    sources: [tensor(["F32", "I32"], "contiguous"), orEmpty(tensor(["F32", "I32"], "rows"))],
    inPlace: [0],
    check: intoView,
  }),
} satisfies OpRules
