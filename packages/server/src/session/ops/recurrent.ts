/** State space models and linear attention: a state that goes from token to token. */
import { RESULT } from "./OpNode.ts"
import { anything, type Check, FLOAT, INT_MAX, type OpRules, ruled, type Work } from "./rule.ts"
import { F32, I32 } from "./types.ts"

const ssmConv: Check = (n) =>
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.matrix(1) ||
  n.sameDim(0, 1, 1, 1) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(1, 1), n.ne(0, 0) - n.ne(1, 0) + 1, n.ne(0, 2), 1) ||
  n.contiguous(RESULT)

const ssmScan: Check = (n) => {
  const [state, head, heads, tokens, sequences] = [
    n.ne(0, 0),
    n.ne(1, 0),
    n.ne(1, 1),
    n.ne(1, 2),
    n.ne(1, 3),
  ]
  return (
    n.range(0, 1, INT_MAX) ||
    n.contiguous(0) ||
    n.contiguous(2) ||
    n.contiguous(3) ||
    n.denseRows(1) ||
    n.denseRows(4) ||
    n.denseRows(5) ||
    n.same(4, 5) ||
    n.typed(6, I32) ||
    n.vector(6) ||
    n.contiguous(6) ||
    n.shape(2, heads, tokens, sequences, 1) ||
    n.must(n.ne(0, 1) === head && n.ne(0, 2) === heads, "src[0] must be a state per head") ||
    n.must(
      n.ne(4, 0) === state && n.ne(4, 2) === tokens && n.ne(4, 3) === sequences,
      "src[4] must have a column per token",
    ) ||
    n.divides(4, 1, 1, 1) ||
    n.must(n.ne(6, 0) === sequences, "src[6] must name a state per sequence") ||
    n.matrix(3) ||
    n.sameDim(3, 1, 1, 1) ||
    n.must(
      n.ne(3, 0) === 1 || (n.ne(3, 0) === state && n.param(0) === 1),
      "src[3].ne[0] must be 1 or src[0].ne[0]",
    ) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, n.elements(1) + n.param(0) * state * head * heads * sequences, 1, 1, 1)
  )
}

/** RWKV and gated linear attention: `perToken` sources [S, H, T], a state, and a result behind one another. */
const recurrent =
  (keys: number, perToken: readonly number[], state: number): Check =>
  (n) => {
    const [size, heads, tokens, sequences] = [
      n.ne(keys, 0),
      n.ne(keys, 1),
      n.ne(keys, 2),
      n.ne(state, 1),
    ]
    for (const source of perToken) {
      const wrong =
        n.typed(source, F32) || n.contiguous(source) || n.shape(source, size, heads, tokens, 1)
      if (wrong !== "") return wrong
    }
    return (
      n.typed(state, F32) ||
      n.contiguous(state) ||
      n.must(
        n.elements(state) === size * size * heads * sequences,
        `src[${state}] must be a state per head and sequence`,
      ) ||
      n.must(
        sequences > 0 && tokens >= sequences && tokens % sequences === 0,
        `src[${state}].ne[1] must divide the number of tokens`,
      ) ||
      n.typed(RESULT, F32) ||
      n.shape(RESULT, size * heads, tokens + size * sequences, 1, 1) ||
      n.contiguous(RESULT)
    )
  }

const wkv6Attention = recurrent(0, [0, 1, 2, 4], 5)

const wkv6: Check = (n) =>
  wkv6Attention(n) ||
  n.typed(3, F32) ||
  n.contiguous(3) ||
  n.must(n.elements(3) === n.ne(0, 0) * n.ne(0, 1), "src[3] must have a value per head and channel")

const gatedDeltaNet: Check = (n) => {
  const [size, heads, tokens, sequences] = [n.ne(2, 0), n.ne(2, 1), n.ne(2, 2), n.ne(2, 3)]
  for (let source = 0; source < 6; source++) {
    const wrong = n.typed(source, F32) || (source < 3 ? n.denseRows(source) : n.contiguous(source))
    if (wrong !== "") return wrong
  }
  return (
    n.range(0, 1, INT_MAX) ||
    n.same(0, 1) ||
    n.sameDim(0, 0, 2, 0) ||
    n.divides(0, 1, 2, 1) ||
    n.sameDim(0, 2, 2, 2) ||
    n.divides(0, 3, 2, 3) ||
    n.must(n.ne(3, 0) === 1 || n.ne(3, 0) === size, "src[3].ne[0] must be 1 or src[2].ne[0]") ||
    n.shape(3, n.ne(3, 0), heads, tokens, sequences) ||
    n.shape(4, 1, heads, tokens, sequences) ||
    n.shape(5, size, size, heads, sequences) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, size * heads, tokens * sequences + n.param(0) * size * sequences, 1, 1) ||
    n.contiguous(RESULT)
  )
}

const gatedDeltaNetWork: Work = (n, threadCount) => {
  const size = n.ne(2, 0)
  return FLOAT * threadCount * (size + size * size)
}

export const recurrentRules = {
  SSM_CONV: ruled({ result: anything, sources: [anything, anything], check: ssmConv }),
  SSM_SCAN: ruled({
    result: anything,
    sources: [anything, anything, anything, anything, anything, anything, anything],
    check: ssmScan,
    indices: [{ source: 6, into: 0, dim: 3 }],
  }),
  RWKV_WKV6: ruled({
    result: anything,
    sources: [anything, anything, anything, anything, anything, anything],
    check: wkv6,
  }),
  GATED_LINEAR_ATTN: ruled({
    result: anything,
    sources: [anything, anything, anything, anything, anything],
    check: recurrent(0, [0, 1, 2, 3], 4),
  }),
  RWKV_WKV7: ruled({
    result: anything,
    sources: [anything, anything, anything, anything, anything, anything, anything],
    check: recurrent(2, [0, 1, 2, 3, 4, 5], 6),
  }),
  GATED_DELTA_NET: ruled({
    result: anything,
    sources: [anything, anything, anything, anything, anything, anything],
    check: gatedDeltaNet,
    work: gatedDeltaNetWork,
  }),
} satisfies OpRules
