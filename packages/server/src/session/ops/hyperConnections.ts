/** Hyper-connections: several residual streams, mixed before and after each layer. */
import { RESULT } from "./OpNode.ts"
import { anything, type Check, INT_MAX, type OpRules, optional, ruled } from "./rule.ts"
import { F32 } from "./types.ts"

/** The only width of hyper-connections that ggml has kernels for. */
const HYPER_CONNECTIONS = 4
const HYPER_MIX = HYPER_CONNECTIONS * (HYPER_CONNECTIONS + 2)

const hyperCombine: Check = (n) =>
  n.typed(0, F32) ||
  n.typed(1, F32) ||
  n.typed(2, F32) ||
  n.range(1, 1, INT_MAX) ||
  n.shape(0, HYPER_MIX, n.ne(0, 1), 1, 1) ||
  n.vector(1) ||
  n.must(n.ne(1, 0) >= 3, "src[1] must have three elements") ||
  n.shape(2, HYPER_MIX, 1, 1, 1) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, HYPER_CONNECTIONS, HYPER_CONNECTIONS, n.ne(0, 1), 1) ||
  n.contiguous(RESULT)

const hyperBefore: Check = (n) => {
  const [width, streams, tokens] = [n.ne(0, 0), n.ne(0, 1), n.ne(0, 2)]
  return (
    n.typed(0, F32) ||
    n.typed(1, F32) ||
    n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
    (n.param(1) !== 0
      ? n.shape(1, width, streams, tokens, 1)
      : n.shape(1, streams, tokens, 1, 1)) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, width, tokens, 1, 1) ||
    n.contiguous(RESULT)
  )
}

const hyperAfter: Check = (n) => {
  const [width, tokens, streams] = [n.ne(0, 0), n.ne(0, 1), n.ne(1, 1)]
  return (
    n.typed(0, F32) ||
    n.typed(1, F32) ||
    n.typed(2, F32) ||
    n.matrix(0) ||
    n.shape(1, width, streams, tokens, 1) ||
    n.shape(2, streams, tokens, 1, 1) ||
    (n.has(3) ? n.typed(3, F32) || n.shape(3, streams, streams, tokens, 1) : "") ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, width, streams, tokens, 1) ||
    n.contiguous(RESULT)
  )
}

export const hyperConnectionsRules = {
  DSV4_HC_COMB: ruled({
    result: anything,
    sources: [anything, anything, anything],
    check: hyperCombine,
  }),
  DSV4_HC_PRE: ruled({ result: anything, sources: [anything, anything], check: hyperBefore }),
  DSV4_HC_POST: ruled({
    result: anything,
    sources: [anything, anything, anything, optional(anything)],
    check: hyperAfter,
  }),
} satisfies OpRules
