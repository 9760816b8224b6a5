/**
 * Which layer goes where. Pure: it knows layers, devices and bytes, and asks `measure` what a candidate
 * takes (libllama's own accounting of a load without memory, see engine/).
 *
 * A model of N blocks has N + 1 units: the blocks in order, then the output layer. Each device gets a
 * run of consecutive units, and the CPU of this host the first ones that no device gets; the input
 * embedding always stays on the CPU. This is llama.cpp's layer split (llama-model.cpp, `load_tensors`).
 */
import { doesNotFit } from "./advice.ts"
import { cutSteps } from "./cut.ts"
import { fits, learn, measurable, tighten } from "./estimate.ts"
import { largestContext, rebalance } from "./fit.ts"
import { leftOutOf, without } from "./limit.ts"
import { planOf } from "./planOf.ts"
import { checkTensorSplit, firstCandidate } from "./split.ts"
import type { Candidate, Measurement, Plan, PlannerInput } from "./types.ts"

/** Estimates get better with each measurement; this many are enough for every layout met so far. */
const MAX_MEASUREMENTS = 6

/**
 * The planner as a generator: yields candidates, is given their measurements, returns the plan.
 *
 * @throws {PlanError}
 */
export function* planSteps(given: PlannerInput): Generator<Candidate, Plan, Measurement> {
  checkTensorSplit(given)
  if (given.cutsTensors) return yield* cutSteps(given)
  const leftOut = leftOutOf(given)
  const input = without(given, leftOut)
  let candidate = firstCandidate(input)
  let tried = measurable(input, candidate)
  let measured = yield tried
  const isFixed = input.tensorSplit !== undefined
  for (let attempt = 1; ; attempt++) {
    if (tried === candidate && fits(input, candidate, measured)) {
      const { devices } = given
      const plan = planOf({ ...input, devices }, candidate, measured)
      return { ...plan, leftOut: [...leftOut].sort((a, b) => a - b).map((at) => devices[at]!.name) }
    }
    const model = learn(input, tried, measured)
    if (attempt === MAX_MEASUREMENTS) throw yield* doesNotFit(model, candidate)
    const minContext = input.minContextSize ?? input.contextSize
    const next = isFixed
      ? undefined
      : rebalance(tighten(model, attempt), candidate.unitCounts, candidate.contextSize)
    if (next?.some((count, index) => count !== candidate.unitCounts[index])) {
      candidate = { ...candidate, unitCounts: next }
    } else {
      const context = largestContext(model, candidate.unitCounts, candidate.contextSize - 256)
      if (context < minContext) throw yield* doesNotFit(model, candidate)
      const counts = isFixed
        ? candidate.unitCounts
        : (rebalance(model, candidate.unitCounts, context) ?? candidate.unitCounts)
      candidate = { unitCounts: counts, contextSize: context }
    }
    tried = measurable(input, candidate)
    measured = yield tried
  }
}
