/** Hyper-connections: several residual streams, mixed before and after each layer. */
import { RESULT } from "./OpNode.ts"
import { type Check, f32, type OpRules, optional, ruled } from "./rule.ts"

/** The only width of hyper-connections that DSV4_HC_COMB has a kernel for. */
const HYPER_CONNECTIONS = 4
const HYPER_MIX = HYPER_CONNECTIONS * (HYPER_CONNECTIONS + 2)

/** Rounds of normalizing; models have 20. */
const MAX_ITERATIONS = 1000

const hyperCombine: Check = (n) =>
  n.range(1, 1, MAX_ITERATIONS) ||
  n.shape(0, HYPER_MIX, n.ne(0, 1), 1, 1) ||
  n.vector(1) ||
  n.must(n.ne(1, 0) >= 3, "src[1] must have three elements") ||
  n.shape(2, HYPER_MIX, 1, 1, 1) ||
  n.shape(RESULT, HYPER_CONNECTIONS, HYPER_CONNECTIONS, n.ne(0, 1), 1)

const hyperBefore: Check = (n) => {
  const [width, streams, tokens] = [n.ne(0, 0), n.ne(0, 1), n.ne(0, 2)]
  return (
    n.range(1, 0, 1) ||
    n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
    (n.param(1) === 1
      ? n.shape(1, width, streams, tokens, 1)
      : n.shape(1, streams, tokens, 1, 1)) ||
    n.shape(RESULT, width, tokens, 1, 1)
  )
}

const hyperAfter: Check = (n) => {
  const [width, tokens, streams] = [n.ne(0, 0), n.ne(0, 1), n.ne(1, 1)]
  return (
    n.matrix(0) ||
    n.shape(1, width, streams, tokens, 1) ||
    n.shape(2, streams, tokens, 1, 1) ||
    (n.has(3) ? n.shape(3, streams, streams, tokens, 1) : "") ||
    n.shape(RESULT, width, streams, tokens, 1)
  )
}

const strided = f32("strided")

export const hyperConnectionsRules = {
  DSV4_HC_COMB: ruled({
    result: f32("contiguous"),
    sources: [strided, strided, strided],
    check: hyperCombine,
  }),
  DSV4_HC_PRE: ruled({
    result: f32("contiguous"),
    sources: [strided, strided],
    check: hyperBefore,
  }),
  DSV4_HC_POST: ruled({
    result: f32("contiguous"),
    sources: [strided, strided, strided, optional(strided)],
    check: hyperAfter,
  }),
} satisfies OpRules
