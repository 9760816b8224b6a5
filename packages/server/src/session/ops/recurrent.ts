/** State space models and linear attention: a state that goes from token to token. */
import { nameOf, type OpNode, RESULT } from "./OpNode.ts"
import { type Check, FLOAT, f32, INT_MAX, type OpRules, ruled, tensor, type Work } from "./rule.ts"

/** Elements that the kernels count in an `int`. */
const intCount = (n: OpNode, count: number, what: string): string =>
  n.must(count <= INT_MAX, `${what} must be less than 2^31`)

/** Rows at no distance: `nb[1]` is the size of a row, also where there is one. */
const denseColumns = (n: OpNode, source: number): string =>
  n.must(
    n.nb(source, 1) === n.rowBytes(source),
    `${nameOf(source)}.nb[1] must be the size of a row, ${n.rowBytes(source)}`,
  )

const ssmConv: Check = (n) =>
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.matrix(1) ||
  n.sameDim(0, 1, 1, 1) ||
  denseColumns(n, 0) ||
  intCount(n, n.ne(0, 0) * n.ne(0, 1), "the elements of a sequence of src[0]") ||
  n.shape(RESULT, n.ne(1, 1), n.ne(0, 0) - n.ne(1, 0) + 1, n.ne(0, 2), 1)

const ssmScan: Check = (n) => {
  const [state, head, heads] = [n.ne(0, 0), n.ne(1, 0), n.ne(1, 1)]
  const [tokens, sequences] = [n.ne(1, 2), n.ne(1, 3)]
  return (
    n.range(0, 1, INT_MAX) ||
    denseColumns(n, 1) ||
    denseColumns(n, 4) ||
    denseColumns(n, 5) ||
    n.same(4, 5) ||
    n.vector(6) ||
    n.shape(2, heads, tokens, sequences, 1) ||
    n.must(n.ne(0, 1) === head && n.ne(0, 2) === heads, "src[0] must be a state per head") ||
    intCount(n, state * head * heads, "the elements of a sequence of src[0]") ||
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
    n.shape(RESULT, n.elements(1) + n.param(0) * state * head * heads * sequences, 1, 1, 1)
  )
}

/** RWKV and gated linear attention: `perToken` sources [S, H, T], a state, and a result behind one another. */
const recurrent =
  (keys: number, perToken: readonly number[], state: number): Check =>
  (n) => {
    const [size, heads, tokens] = [n.ne(keys, 0), n.ne(keys, 1), n.ne(keys, 2)]
    const sequences = n.ne(state, 1)
    for (const source of perToken) {
      const wrong = n.shape(source, size, heads, tokens, 1)
      if (wrong !== "") return wrong
    }
    return (
      n.must(
        n.elements(state) === size * size * heads * sequences,
        `src[${state}] must be a state per head and sequence`,
      ) ||
      n.must(
        tokens >= sequences && tokens % sequences === 0,
        `src[${state}].ne[1] must divide the number of tokens`,
      ) ||
      n.shape(RESULT, size * heads, tokens + size * sequences, 1, 1)
    )
  }

const wkv6Attention = recurrent(0, [0, 1, 2, 4], 5)

const wkv6: Check = (n) =>
  wkv6Attention(n) ||
  n.must(n.elements(3) === n.ne(0, 0) * n.ne(0, 1), "src[3] must have a value per head and channel")

const wkv7Attention = recurrent(2, [0, 1, 2, 3, 4, 5], 6)

/** `GGML_F32_STEP` with AVX-512, the most of all processors: elements that a loop of RWKV_WKV7 takes at a time. */
const VECTOR_STEP = 64

/** Its kernel has no code for what is left of a head behind whole steps (ops.cpp `ggml_compute_forward_rwkv_wkv7_f32`). */
const wkv7: Check = (n) =>
  n.must(n.ne(2, 0) % VECTOR_STEP === 0, `src[2].ne[0] must be a multiple of ${VECTOR_STEP}`) ||
  wkv7Attention(n)

const gatedDeltaNet: Check = (n) => {
  const [size, heads, tokens, sequences] = [n.ne(2, 0), n.ne(2, 1), n.ne(2, 2), n.ne(2, 3)]
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
    intCount(n, size * size, "the elements of a state") ||
    n.shape(RESULT, size * heads, tokens * sequences + n.param(0) * size * sequences, 1, 1)
  )
}

/** A row for each thread, and a state where more than the last is kept. */
const gatedDeltaNetWork: Work = (n, threadCount) => {
  const size = n.ne(2, 0)
  return FLOAT * threadCount * (n.param(0) > 1 ? size + size * size : size)
}

const contiguous = f32("contiguous")

export const recurrentRules = {
  SSM_CONV: ruled({ result: contiguous, sources: [f32("rows"), f32("packed")], check: ssmConv }),
  SSM_SCAN: ruled({
    result: contiguous,
    // States are as large as their strides say.
    sources: [
      f32("exact"),
      f32("rows"),
      f32("packed"),
      f32("packed"),
      f32("rows"),
      f32("rows"),
      tensor(["I32"], "packed"),
    ],
    check: ssmScan,
    indices: [{ source: 6, into: 0, dim: 3 }],
  }),
  RWKV_WKV6: ruled({
    result: contiguous,
    sources: [contiguous, contiguous, contiguous, contiguous, contiguous, contiguous],
    check: wkv6,
  }),
  GATED_LINEAR_ATTN: ruled({
    result: contiguous,
    sources: [contiguous, contiguous, contiguous, contiguous, contiguous],
    check: recurrent(0, [0, 1, 2, 3], 4),
  }),
  RWKV_WKV7: ruled({
    result: contiguous,
    sources: [contiguous, contiguous, contiguous, contiguous, contiguous, contiguous, contiguous],
    check: wkv7,
  }),
  GATED_DELTA_NET: ruled({
    result: contiguous,
    sources: [f32("rows"), f32("rows"), f32("rows"), contiguous, contiguous, contiguous],
    check: gatedDeltaNet,
    work: gatedDeltaNetWork,
  }),
} satisfies OpRules
