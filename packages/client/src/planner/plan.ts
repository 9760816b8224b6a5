/**
 * Which layer goes where. Pure: it knows layers, devices and bytes, and asks `measure` what a candidate
 * takes (libllama's own accounting of a load without memory, see engine/).
 *
 * A model of N blocks has N + 1 units: the blocks in order, then the output layer. Each device gets a
 * run of consecutive units, and the CPU of this host the first ones that no device gets; the input
 * embedding always stays on the CPU. This is llama.cpp's layer split (llama-model.cpp, `load_tensors`).
 */
import { doesNotFit } from "./advice.ts"
import { fits, learn, measurable, tighten } from "./estimate.ts"
import { largestContext, rebalance } from "./fit.ts"
import { leftOutOf, without } from "./limit.ts"
import { HOST, leastOf, leftInPools } from "./pools.ts"
import { checkTensorSplit, firstCandidate, firstUnits } from "./split.ts"
import {
  type Candidate,
  type DevicePlan,
  type DeviceUse,
  type Measurement,
  type Plan,
  type PlannerDevice,
  type PlannerInput,
  sum,
  totalOf,
} from "./types.ts"

/** Estimates get better with each measurement; this many are enough for every layout met so far. */
const MAX_MEASUREMENTS = 6

/**
 * The planner as a generator: yields candidates, is given their measurements, returns the plan.
 *
 * @throws {PlanError}
 */
export function* planSteps(given: PlannerInput): Generator<Candidate, Plan, Measurement> {
  checkTensorSplit(given)
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

const planOf = (
  input: PlannerInput,
  candidate: Candidate,
  measured: Measurement,
): Omit<Plan, "leftOut"> => {
  const unitCount = input.unitBytes.length
  const firsts = firstUnits(unitCount, candidate.unitCounts)
  const left = leftInPools(input, measured.devices.map(totalOf), totalOf(measured.host))
  const planFor = (
    member: number,
    device: PlannerDevice,
    use: DeviceUse,
    firstUnit: number,
    count: number,
  ): DevicePlan => ({
    name: device.name,
    firstUnit,
    unitCount: count,
    weightBytes: use.weightBytes,
    contextBytes: use.contextBytes,
    computeBytes: use.computeBytes,
    freeBytes: device.freeBytes,
    totalBytes: device.totalBytes,
    freeAfterBytes: Math.max(0, leastOf(input, left, member, device.freeBytes - totalOf(use))),
  })
  return {
    devices: input.devices.map((device, index) =>
      planFor(
        index,
        device,
        measured.devices[index]!,
        firsts[index]!,
        candidate.unitCounts[index]!,
      ),
    ),
    host: planFor(HOST, input.host, measured.host, 0, unitCount - sum(candidate.unitCounts)),
    shared: (input.pools ?? []).flatMap(({ members, freeBytes, isInner }) => {
      const devices = members.flatMap((index) => input.devices[index]?.name ?? [])
      return isInner ? [] : [{ devices, hasHost: members.includes(HOST), freeBytes }]
    }),
    unitCount,
    contextSize: candidate.contextSize,
    ...(candidate.contextSize === input.contextSize
      ? {}
      : { wantedContextSize: input.contextSize }),
  }
}
