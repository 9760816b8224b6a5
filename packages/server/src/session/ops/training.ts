/** Losses and optimizers. */
import { RESULT } from "./OpNode.ts"
import { type Check, type OpRules, rule } from "./rule.ts"
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

export const trainingRules: OpRules = {
  CROSS_ENTROPY_LOSS: rule(2, (n) => n.same(1, 0) || n.scalar(RESULT)),
  CROSS_ENTROPY_LOSS_BACK: rule(3, (n) => n.scalar(0) || n.same(2, 1) || n.same(RESULT, 1)),
  OPT_STEP_ADAMW: rule(5, optimizer([1, 2, 3], 4, 7)),
  OPT_STEP_SGD: rule(3, optimizer([1], 2, 2)),
}
