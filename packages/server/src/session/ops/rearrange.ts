/** Operations that move elements: repeated, joined, padded, shifted, scaled up. */
import { type OpNode, RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  f32,
  type OpRules,
  orEmpty,
  ruled,
  tensor,
  training,
} from "./rule.ts"
import { allTypes, among } from "./types.ts"

/** Joined element by element, others by rows. */
const isJoinedByElement = among(["F32", "F16", "BF16", "I32", "I16", "I8"])

const concat: Check = (n) => {
  const wrong =
    n.range(0, 0, 3) ||
    n.sameType(RESULT, 0) ||
    n.sameType(1, 0) ||
    (isJoinedByElement[n.type(0)] !== 0 ? "" : n.denseRows(0) || n.denseRows(1))
  if (wrong !== "") return wrong
  const along = n.param(0)
  for (let dim = 0; dim < 4; dim++) {
    const sum = n.ne(0, dim) + n.ne(1, dim)
    if (dim !== along && n.ne(0, dim) !== n.ne(1, dim)) return n.sameDim(1, dim, 0, dim)
    if (n.ne(RESULT, dim) !== (dim === along ? sum : n.ne(0, dim))) {
      return `the result's ne[${dim}] must be that of both sources together`
    }
  }
  return ""
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
  return ""
}

const padReflect1d: Check = (n) =>
  n.ranges(0, 1, 0, n.ne(0, 0) - 1) ||
  n.shape(RESULT, n.ne(0, 0) + n.param(0) + n.param(1), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const roll: Check = (n) => {
  for (let dim = 0; dim < 4; dim++) {
    const wrong = n.range(dim, 1 - n.ne(0, dim), n.ne(0, dim) - 1)
    if (wrong !== "") return wrong
  }
  return n.same(RESULT, 0)
}

/** The kernel finds a source's element by a division of floats, which goes beyond the last one where there are more. */
const UPSCALE_LIMIT = 2 ** 20

const isUpscalable = (n: OpNode, tensor: number): boolean => {
  for (let dim = 0; dim < 4; dim++) if (n.ne(tensor, dim) > UPSCALE_LIMIT) return false
  return true
}

const upscale: Check = (n) =>
  n.must(
    isUpscalable(n, 0) && isUpscalable(n, RESULT),
    `each dimension must be at most ${UPSCALE_LIMIT}`,
  ) || n.must((n.param(0) & 0xff) < 3, "op_params[0] must be a known mode")

export const rearrangeRules = {
  REPEAT: ruled({
    result: tensor(["F32", "F16", "BF16", "I32", "I16"], "rows"),
    sources: [tensor(["F32", "F16", "BF16", "I32", "I16"], "rows")],
    check: (n) => n.sameType(RESULT, 0) || n.repeats(0, RESULT),
  }),
  REPEAT_BACK: training({
    result: f32("rows"),
    sources: [f32("rows")],
    check: (n) => n.repeats(RESULT, 0),
  }),
  CONCAT: ruled({
    result: tensor(allTypes, "packed"),
    // minicpm3's heads have a part without positions of no elements.
    sources: [orEmpty(anything), orEmpty(anything)],
    check: concat,
  }),
  UPSCALE: ruled({ result: f32("strided"), sources: [f32("strided")], check: upscale }),
  PAD: ruled({ result: f32("contiguous"), sources: [f32("strided")], check: pad }),
  PAD_REFLECT_1D: ruled({ result: f32("rows"), sources: [f32("rows")], check: padReflect1d }),
  ROLL: ruled({ result: f32("rows"), sources: [f32("rows")], check: roll }),
} satisfies OpRules
