/** Units over devices in proportion: what llama.cpp would do. */
import { PlanError } from "../errors.ts"
import { MAX_DEVICES } from "./limit.ts"
import { sharesOf } from "./pools.ts"
import { type Candidate, type PlannerInput, sum } from "./types.ts"

/**
 * Units for each device in proportion to `weights`, as llama.cpp rounds: unit u of n goes to the first
 * device whose cumulated share exceeds u / n. Single precision, since the result must be the same there.
 */
export const splitUnits = (
  unitCount: number,
  weights: ReadonlyArray<number>,
): ReadonlyArray<number> => {
  const counts: Array<number> = weights.map(() => 0)
  if (weights.length === 0 || unitCount === 0) return counts
  let sum = Math.fround(0)
  const cumulated = weights.map((weight) => {
    sum = Math.fround(sum + Math.fround(weight))
    return sum
  })
  const shares = cumulated.map((value) => Math.fround(value / sum))
  for (let unit = 0; unit < unitCount; unit++) {
    const position = Math.fround(unit / unitCount)
    const found = shares.findIndex((share) => share > position)
    counts[found < 0 ? weights.length - 1 : found]!++
  }
  return counts
}

/** First unit of each device: the host holds the units before. */
export const firstUnits = (
  unitCount: number,
  counts: ReadonlyArray<number>,
): ReadonlyArray<number> => {
  let next = unitCount - sum(counts)
  return counts.map((count) => {
    const first = next
    next += count
    return first
  })
}

/**
 * The first candidate: by given proportions as llama.cpp rounds. Else blocks in proportion to free memory, and the output layer to
 * the last device besides: it computes one token of a prompt's thousand, so that stages with as many blocks take as long.
 */
export const firstCandidate = (input: PlannerInput): Candidate => {
  const unitCount = input.unitBytes.length
  const wanted = Math.min(input.gpuLayers ?? unitCount, unitCount)
  const { contextSize, tensorSplit } = input
  if (tensorSplit !== undefined) return { unitCounts: splitUnits(wanted, tensorSplit), contextSize }
  const weights = evenShares(sharesOf(input))
  const last = weights.findLastIndex((weight) => weight > 0)
  if (last < 0 || wanted === 0) return { unitCounts: input.devices.map(() => 0), contextSize }
  const counts = splitUnits(wanted - 1, weights)
  return { unitCounts: counts.map((count, at) => (at === last ? count + 1 : count)), contextSize }
}

/** Devices whose memory differs by less than this get as many blocks each, if they have room. */
const EVEN_RATIO = 1.5

/** Shares of memory that hardly differ say nothing of speed, and the slowest stage sets the pace of all. */
const evenShares = (shares: ReadonlyArray<number>): ReadonlyArray<number> => {
  const used = shares.filter((share) => share > 0)
  return Math.max(...used) < EVEN_RATIO * Math.min(...used)
    ? shares.map((share) => (share > 0 ? 1 : 0))
    : shares
}

/** @throws {PlanError} when the proportions cannot be meant for these devices */
export const checkTensorSplit = (input: PlannerInput): void => {
  const split = input.tensorSplit
  if (split === undefined) return
  const { length: deviceCount } = input.devices
  if (deviceCount === 0) {
    throw new PlanError({
      reason: "tensor-split",
      detail:
        "--tensor-split has nothing to split: there is no device besides this host's CPU. Name servers with --rpc, or leave it out.",
    })
  }
  if (split.length !== deviceCount) {
    const names = input.devices.map((device) => device.name).join(", ")
    const there = deviceCount === 1 ? "there is 1 device" : `there are ${deviceCount} devices`
    throw new PlanError({
      reason: "tensor-split",
      detail: `--tensor-split has ${split.length} value${split.length === 1 ? "" : "s"}, but ${there} (${names}): give one value for each, in that order.`,
    })
  }
  const usedCount = split.filter((share) => share > 0).length
  if (usedCount > MAX_DEVICES) {
    throw new PlanError({
      reason: "tensor-split",
      detail: `--tensor-split gives layers to ${usedCount} devices, and llama.cpp splits a model over ${MAX_DEVICES} and this host's CPU at most: give 0 for some.`,
    })
  }
  if (split.some((share) => !Number.isFinite(share) || share < 0) || sum(split) <= 0) {
    throw new PlanError({
      reason: "tensor-split",
      detail: `--tensor-split ${split.join(",")} needs numbers that are not negative, and at least one above zero.`,
    })
  }
}
