/** What would fit by the estimate: other counts, a shorter context, fewer layers on devices. */
import { type Model, slackOf } from "./estimate.ts"
import { sharesOf } from "./pools.ts"
import { splitUnits } from "./split.ts"

/** Unit counts, and whether all of it fits by the estimate. */
interface Spread {
  readonly counts: ReadonlyArray<number>
  readonly fits: boolean
}

/**
 * Moves units from devices that are too full to those with the most room, then to the host, until all
 * fits by the estimate, or nothing can be moved any more.
 */
export const spread = (model: Model, start: ReadonlyArray<number>, contextSize: number): Spread => {
  const counts = [...start]
  const mayUseHost = model.input.gpuLayers === undefined
  for (let moves = 0; moves <= counts.length * model.input.unitBytes.length; moves++) {
    const slack = slackOf(model, counts, contextSize)
    const full = slack.devices.findIndex((bytes, index) => bytes < 0 && counts[index]! > 0)
    if (full < 0) return { counts, fits: slack.host >= 0 }
    counts[full]!--
    const receiver = counts
      .map((_, index) => index)
      .filter((index) => index !== full)
      .map((index) => {
        const tried = counts.map((count, other) => (other === index ? count + 1 : count))
        return { index, slack: slackOf(model, tried, contextSize).devices[index]! }
      })
      .filter((candidate) => candidate.slack >= 0)
      .sort((a, b) => b.slack - a.slack)[0]
    if (receiver !== undefined) counts[receiver.index]!++
    else if (!mayUseHost) {
      counts[full]!++
      return { counts, fits: false }
    }
  }
  return { counts, fits: false }
}

/** The same, only where it fits. */
export const rebalance = (
  model: Model,
  start: ReadonlyArray<number>,
  contextSize: number,
): ReadonlyArray<number> | undefined => {
  const { counts, fits } = spread(model, start, contextSize)
  return fits ? counts : undefined
}

/** Whether the model fits by the estimate, with the very same counts when the split is fixed. */
const wouldFit = (model: Model, start: ReadonlyArray<number>, contextSize: number): boolean => {
  if (model.input.tensorSplit === undefined) {
    return rebalance(model, start, contextSize) !== undefined
  }
  const { devices, host } = slackOf(model, start, contextSize)
  return host >= 0 && devices.every((bytes, index) => bytes >= 0 || start[index] === 0)
}

/** The largest context length, in steps of 256 tokens, with which the model would fit; 0 when none. */
export const largestContext = (
  model: Model,
  start: ReadonlyArray<number>,
  below: number,
): number => {
  let low = 0
  let high = Math.floor(below / 256)
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (wouldFit(model, start, middle * 256)) low = middle
    else high = middle - 1
  }
  return low * 256
}

/** The largest number of units on devices that would fit, the rest on the host. */
export const largestGpuLayers = (model: Model, contextSize: number): number => {
  const { input } = model
  const free = { ...model, input: { ...input, gpuLayers: undefined } }
  for (let units = input.unitBytes.length; units > 0; units--) {
    const counts = splitUnits(units, sharesOf(input))
    const slack = slackOf(free, counts, contextSize)
    if (
      slack.devices.every((bytes, index) => bytes >= 0 || counts[index] === 0) &&
      slack.host >= 0
    ) {
      return units
    }
  }
  return 0
}
