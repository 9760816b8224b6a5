/** Losses and optimizers. */
import { RESULT } from "./OpNode.ts"
import { anything, type Check, FLOAT, type OpRules, training } from "./rule.ts"
import { F32 } from "./types.ts"

const optimizer =
  (moments: readonly number[], parameters: number, count: number): Check =>
  (n) => {
    for (const source of moments) {
      const wrong = n.same(source, 0)
      if (wrong !== "") return wrong
    }
    return (
      n.same(RESULT, 0) ||
      n.typed(parameters, F32) ||
      n.must(n.elements(parameters) === count, `src[${parameters}] must have ${count} elements`)
    )
  }

export const trainingRules = {
  CROSS_ENTROPY_LOSS: training({
    result: anything,
    sources: [anything, anything],
    check: (n) => n.same(1, 0) || n.scalar(RESULT),
    work: (n, threadCount) => FLOAT * (1 + n.ne(0, 0)) * threadCount,
  }),
  CROSS_ENTROPY_LOSS_BACK: training({
    result: anything,
    sources: [anything, anything, anything],
    check: (n) => n.scalar(0) || n.same(2, 1) || n.same(RESULT, 1),
  }),
  OPT_STEP_ADAMW: training({
    result: anything,
    sources: [anything, anything, anything, anything, anything],
    inPlace: [0],
    check: optimizer([1, 2, 3], 4, 7),
  }),
  OPT_STEP_SGD: training({
    result: anything,
    sources: [anything, anything, anything],
    inPlace: [0],
    check: optimizer([1], 2, 2),
  }),
} satisfies OpRules
