/** Losses and optimizers. */
import { nameOf, RESULT } from "./OpNode.ts"
import { type Check, FLOAT, f32, type OpRules, training } from "./rule.ts"

/**
 * The result is src[0], the weights, which are changed in place; so are `moments`, sources that nothing else may be. Kernels
 * look at all by the strides of the weights.
 */
const optimizer =
  (perWeight: readonly number[], moments: readonly number[], parameters: number): Check =>
  (n) => {
    for (const source of perWeight) {
      const wrong = n.same(source, 0)
      if (wrong !== "") return wrong
    }
    for (const moment of moments) {
      for (let other = RESULT; other <= parameters; other++) {
        if (other !== moment && !n.areApart(moment, other)) {
          return `src[${moment}] must not overlap ${nameOf(other)}`
        }
      }
    }
    return n.must(n.areOne(RESULT, 0), "the result must be src[0]")
  }

const packed = f32("packed")
const contiguous = f32("contiguous")

const adamw = optimizer([1, 2, 3], [2, 3], 4)
const sgd = optimizer([1], [], 2)

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
    check: (n) => adamw(n) || n.must(n.elements(4) === 7, "src[4] must have 7 elements"),
  }),
  OPT_STEP_SGD: training({
    result: packed,
    sources: [packed, packed, contiguous],
    inPlace: [0],
    check: (n) => sgd(n) || n.must(n.elements(2) === 2, "src[2] must have 2 elements"),
  }),
} satisfies OpRules
