/** Operations on each element, and rows that are made of parameters. */
import { loaded } from "../spoken.ts"
import type { Layout } from "./layout.ts"
import { type OpNode, RESULT } from "./OpNode.ts"
import {
  type Check,
  f32,
  INT_MAX,
  type OpRules,
  optional,
  type Ruled,
  rowAThread,
  ruled,
  tensor,
  training,
} from "./rule.ts"
import { F16, F32, f16OrF32, floats, readable, writable } from "./types.ts"

/** Same shape, same type. */
const alike: Check = (n) => n.same(RESULT, 0) || n.sameType(RESULT, 0)

/** Each element of a tensor for itself, in rows that lie so. */
const eachElement = (types: readonly ("F32" | "F16" | "BF16")[], layout: Layout): Ruled =>
  ruled({
    result: tensor(types, layout),
    sources: [tensor(types, layout)],
    inPlace: [0],
    check: alike,
  })

/** binary-ops.cpp: all of one type; or halves with floats, into either. */
const mixedTypes = (n: OpNode): string => {
  if (n.type(1) === n.type(0)) return n.sameType(RESULT, 0)
  return n.typed(1, F32) || n.typed(RESULT, n.type(0), F32)
}

const binary: Check = (n) =>
  n.same(RESULT, 0) ||
  n.repeats(1, 0) ||
  (n.type(0) === F32 ? n.sameType(1, 0) || n.sameType(RESULT, 0) : mixedTypes(n))

/** A quantized first source is added to row by row, through floats. */
const add: Check = (n) =>
  n.isQuantized(0)
    ? n.same(RESULT, 0) ||
      n.same(1, 0) ||
      n.typed(1, F32) ||
      n.denseRows(1) ||
      n.growingStrides(RESULT)
    : binary(n)

const add1: Check = (n) =>
  alike(n) ||
  n.scalar(1) ||
  (n.type(0) === F32 || n.isQuantized(0) ? n.typed(1, F32) : n.typed(1, n.type(0), F32)) ||
  // The kernel of quantized types takes nb[0] for nb[3] (ops.cpp, `add1_q_f32`).
  (n.isQuantized(0)
    ? n.growingStrides(RESULT) || n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")
    : "")

const addId: Check = (n) =>
  n.same(RESULT, 0) ||
  n.matrix(1) ||
  n.matrix(2) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.sameDim(1, 0, 0, 0) ||
  n.sameDim(2, 0, 0, 1) ||
  n.sameDim(2, 1, 0, 2)

/** By kind of a UNARY node, 1: no kernel for BF16. */
const isNarrow = Uint8Array.from(loaded.unaryOps, (name) =>
  ["GELU", "GELU_ERF", "GELU_QUICK", "SILU"].includes(name) ? 1 : 0,
)
const XIELU = loaded.unaryOps.indexOf("XIELU")

const unary: Check = (n) =>
  alike(n) ||
  (isNarrow[n.param(0)] !== 0 ? n.typed(0, F16, F32) : "") ||
  (n.param(0) === XIELU ? n.rowsAtOneDistance(0) || n.rowsAtOneDistance(RESULT) : "")

const SWIGLU_OAI = loaded.gluOps.indexOf("SWIGLU_OAI")

const glu: Check = (n) =>
  n.sameType(RESULT, 0) ||
  (n.param(0) === SWIGLU_OAI ? n.typed(0, F32) : "") ||
  (n.has(1)
    ? n.same(0, 1) || n.sameType(1, 0) || n.same(RESULT, 0)
    : n.shape(RESULT, Math.floor(n.ne(0, 0) / 2), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3)))

/** Elements are counted along a row, and rows by nb[1] alone. */
const scale: Check = (n) =>
  n.same(RESULT, 0) || n.rowsAtOneDistance(0) || n.rowsAtOneDistance(RESULT)

const arange: Check = (n) => {
  const [start, stop, step] = [n.floatParam(0), n.floatParam(1), n.floatParam(2)]
  const count = Math.ceil(Math.fround(Math.fround(stop - start) / step))
  return (
    n.vector(RESULT) ||
    n.must(n.ne(RESULT, 0) === count, `the result must have the ${count} elements of op_params`)
  )
}

const timestepEmbedding: Check = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.range(1, 1, INT_MAX) ||
  n.vector(0) ||
  n.shape(RESULT, n.param(0), n.ne(0, 0), 1, 1)

/** SUB, MUL and DIV. */
const arithmetic = ruled({
  result: tensor(floats, "rows"),
  sources: [tensor(floats, "rows"), tensor(floats, "strided")],
  inPlace: [0, 1],
  check: binary,
})

export const arithmeticRules = {
  ADD: ruled({
    result: tensor([...floats, ...writable], "rows"),
    sources: [tensor([...floats, ...readable], "rows"), tensor(floats, "strided")],
    inPlace: [0, 1],
    check: add,
    work: rowAThread(0),
  }),
  ADD_ID: ruled({
    result: f32("rows"),
    sources: [f32("rows"), f32("rows"), tensor(["I32"], "strided")],
    inPlace: [0],
    check: addId,
    work: rowAThread(0),
    indices: [{ source: 2, into: 1, dim: 1 }],
  }),
  ADD1: ruled({
    result: tensor([...floats, ...writable], "rows"),
    sources: [tensor([...floats, ...readable], "rows"), tensor(floats, "strided")],
    inPlace: [0],
    check: add1,
    work: rowAThread(0),
  }),
  SUB: arithmetic,
  MUL: arithmetic,
  DIV: arithmetic,
  SQR: eachElement(["F32", "F16", "BF16"], "rows"),
  SQRT: eachElement(["F32", "F16", "BF16"], "rows"),
  LOG: eachElement(["F32", "F16", "BF16"], "rows"),
  SIN: eachElement(["F32", "F16", "BF16"], "rows"),
  COS: eachElement(["F32", "F16", "BF16"], "rows"),
  SILU_BACK: training({
    result: tensor(f16OrF32, "pitched"),
    sources: [tensor(f16OrF32, "pitched"), tensor(f16OrF32, "pitched")],
    inPlace: [0, 1],
    check: (n) => alike(n) || n.same(1, 0) || n.sameType(1, 0),
  }),
  SCALE: ruled({
    result: f32("contiguous"),
    sources: [f32("contiguous")],
    inPlace: [0],
    check: scale,
  }),
  CLAMP: eachElement(["F32", "F16"], "pitched"),
  LEAKY_RELU: eachElement(["F32", "F16"], "pitched"),
  UNARY: ruled({
    result: tensor(floats, "rows"),
    sources: [tensor(floats, "rows")],
    inPlace: [0],
    check: unary,
  }),
  GLU: ruled({
    result: tensor(f16OrF32, "pitched"),
    sources: [tensor(f16OrF32, "pitched"), optional(tensor(f16OrF32, "pitched"))],
    inPlace: [0, 1],
    check: glu,
  }),
  FILL: eachElement(["F32", "F16"], "rows"),
  ARANGE: ruled({ result: f32("packed"), sources: [], check: arange }),
  TIMESTEP_EMBEDDING: ruled({
    result: f32("rows"),
    sources: [f32("rows")],
    check: timestepEmbedding,
  }),
} satisfies OpRules
