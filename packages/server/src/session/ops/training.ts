/** Losses and optimizers. */
import { RESULT } from "./OpNode.ts"
import { type Check, FLOAT, f32, type OpRules, training } from "./rule.ts"

/** Weights, of which the result are the new ones, and a value of `perWeight` for each: kernels look at all by their strides. */
const optimizer =
  (perWeight: readonly number[], parameters: number, count: number): Check =>
  (n) => {
    for (const source of perWeight) {
      const wrong = n.same(source, 0)
      if (wrong !== "") return wrong
    }
    return (
      n.same(RESULT, 0) ||
      n.must(n.elements(parameters) === count, `src[${parameters}] must have ${count} elements`)
    )
  }

const packed = f32("packed")
const contiguous = f32("contiguous")

export const trainingRules = {
  CROSS_ENTROPY_LOSS: training({
    result: contiguous,
    sources: [packed, packed],
    check: (n) => n.same(1, 0) || n.scalar(RESULT),
    work: (n, threadCount) => FLOAT * (1 + n.ne(0, 0)) * threadCount,
  }),
  CROSS_ENTROPY_LOSS_BACK: training({
    result: packed,
    sources: [contiguous, packed, packed],
    check: (n) => n.scalar(0) || n.same(2, 1) || n.same(RESULT, 1),
  }),
  OPT_STEP_ADAMW: training({
    result: packed,
    sources: [packed, packed, packed, packed, contiguous],
    inPlace: [0],
    over: 0,
    writes: [2, 3],
    check: optimizer([1, 2, 3], 4, 7),
  }),
  OPT_STEP_SGD: training({
    result: packed,
    sources: [packed, packed, contiguous],
    inPlace: [0],
    over: 0,
    check: optimizer([1], 2, 2),
  }),
} satisfies OpRules
