/** Operations that move elements: repeated, joined, padded, shifted, scaled up. */
import { RESULT } from "./OpNode.ts"
import { anything, type Check, type OpRules, orEmpty, ruled, training } from "./rule.ts"
import { F32 } from "./types.ts"

const concat: Check = (n) => {
  const wrong = n.range(0, 0, 3) || n.sameType(RESULT, 0) || n.sameType(1, 0)
  if (wrong !== "") return wrong
  const along = n.param(0)
  for (let dim = 0; dim < 4; dim++) {
    const sum = n.ne(0, dim) + n.ne(1, dim)
    if (dim !== along && n.ne(0, dim) !== n.ne(1, dim)) return n.sameDim(1, dim, 0, dim)
    if (n.ne(RESULT, dim) !== (dim === along ? sum : n.ne(0, dim))) {
      return `the result's ne[${dim}] must be that of both sources together`
    }
  }
  return n.contiguous(RESULT)
}

const pad: Check = (n) => {
  const wrong = n.ranges(0, 7, 0, 2 ** 30)
  if (wrong !== "") return wrong
  const isCircular = n.param(8) !== 0
  for (let dim = 0; dim < 4; dim++) {
    const [before, after] = [n.param(2 * dim), n.param(2 * dim + 1)]
    if (n.ne(RESULT, dim) !== n.ne(0, dim) + before + after) {
      return `the result's ne[${dim}] must be src[0]'s with its padding`
    }
    if (isCircular && Math.max(before, after) > n.ne(0, dim)) {
      return `the padding of ne[${dim}] must not be larger than it`
    }
  }
  return n.contiguous(RESULT)
}

const padReflect1d: Check = (n) =>
  n.ranges(0, 1, 0, n.ne(0, 0) - 1) ||
  n.contiguous(0) ||
  n.typed(0, F32) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 0) + n.param(0) + n.param(1), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const roll: Check = (n) => {
  for (let dim = 0; dim < 4; dim++) {
    const wrong = n.range(dim, 1 - n.ne(0, dim), n.ne(0, dim) - 1)
    if (wrong !== "") return wrong
  }
  return n.same(RESULT, 0) || n.sameType(RESULT, 0) || n.denseRows(0)
}

export const rearrangeRules = {
  REPEAT: ruled({
    result: anything,
    sources: [anything],
    check: (n) => n.sameType(RESULT, 0) || n.repeats(0, RESULT),
  }),
  REPEAT_BACK: training({
    result: anything,
    sources: [anything],
    check: (n) => n.sameType(RESULT, 0) || n.repeats(RESULT, 0),
  }),
  CONCAT: ruled({
    result: anything,
    // minicpm3's heads have a part without positions of no elements.
    sources: [orEmpty(anything), orEmpty(anything)],
    check: concat,
  }),
  UPSCALE: ruled({
    result: anything,
    sources: [anything],
    check: (n) =>
      n.typed(0, F32) ||
      n.typed(RESULT, F32) ||
      n.must(n.elements(0) > 0, "src[0] must not be empty") ||
      n.must((n.param(0) & 0xff) < 3, "op_params[0] must be a known mode"),
  }),
  PAD: ruled({ result: anything, sources: [anything], check: pad }),
  PAD_REFLECT_1D: ruled({ result: anything, sources: [anything], check: padReflect1d }),
  ROLL: ruled({ result: anything, sources: [anything], check: roll }),
} satisfies OpRules
