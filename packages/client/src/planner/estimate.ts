/** What a candidate would take, learned from what another one took. */
import { HOST, leastOf, leftInPools } from "./pools.ts"
import { firstUnits } from "./split.ts"
import {
  type Candidate,
  type Measurement,
  type PlannerDevice,
  type PlannerInput,
  sum,
  totalOf,
} from "./types.ts"

/** Context bytes a unit and a token, and fixed costs, learned from a measurement. */
export interface Model {
  readonly input: PlannerInput
  readonly contextPerUnit: number
  readonly computePerDevice: ReadonlyArray<number>
  readonly hostComputeBytes: number
  /** Weight bytes on the host that are in no unit: the input embedding. */
  readonly hostOtherBytes: number
  /** Share of the host's weights that need memory of their own. */
  readonly hostCopiedShare: number
  readonly contextSize: number
  readonly groupCount: number
}

export const learn = (input: PlannerInput, candidate: Candidate, measured: Measurement): Model => {
  const counts = candidate.unitCounts
  const unitCount = input.unitBytes.length
  const contextBytes =
    sum(measured.devices.map((use) => use.contextBytes)) + measured.host.contextBytes
  const largestCompute = Math.max(0, ...measured.devices.map((use) => use.computeBytes))
  const copied = measured.host.weightBytes - measured.hostFileLayoutBytes
  const hostUnits = sum(input.unitBytes.slice(0, unitCount - sum(counts)))
  return {
    input,
    // The output layer has no KV cache.
    contextPerUnit: contextBytes / Math.max(1, unitCount - 1),
    // A device that got nothing yet would need about what the others do.
    computePerDevice: measured.devices.map((use, index) =>
      counts[index]! > 0 ? use.computeBytes : largestCompute,
    ),
    hostComputeBytes: measured.host.computeBytes,
    hostOtherBytes: Math.max(0, measured.host.weightBytes - hostUnits),
    hostCopiedShare: input.mapsWeights ? copied / Math.max(1, measured.host.weightBytes) : 1,
    contextSize: candidate.contextSize,
    groupCount: measured.groupCount ?? 1,
  }
}

/**
 * Memory of this host that libllama takes for each token of a context besides all buffers, its table of
 * KV cells: 52 bytes measured (v0.5.0), doubled for safety. It takes it in a measurement too, of one context.
 */
export const CELL_BYTES = 104

/**
 * What can be measured in place of a candidate: one whose context is so absurdly long that its table of
 * cells alone would not fit into this host is judged by a shorter one.
 */
export const measurable = (input: PlannerInput, candidate: Candidate): Candidate =>
  candidate.contextSize * CELL_BYTES <= input.host.freeBytes
    ? candidate
    : { ...candidate, contextSize: Math.min(4096, candidate.contextSize) }

/** Estimated free bytes; negative where it does not fit. What shares a memory has no more than is left there. */
export interface Slack {
  readonly devices: ReadonlyArray<number>
  readonly host: number
  /** Of each of the input's pools. */
  readonly pools: ReadonlyArray<number>
}

/** Estimated free bytes of each device with these counts; negative where it does not fit. */
export const slackOf = (
  model: Model,
  counts: ReadonlyArray<number>,
  contextSize: number,
): Slack => {
  const { input } = model
  const unitCount = input.unitBytes.length
  const firsts = firstUnits(unitCount, counts)
  const scale = model.contextSize > 0 ? contextSize / model.contextSize : 1
  const useOf = (first: number, count: number): number => {
    const blocks = Math.max(0, Math.min(first + count, unitCount - 1) - first)
    return sum(input.unitBytes.slice(first, first + count)) + blocks * model.contextPerUnit * scale
  }
  const deviceUses = counts.map((count, index) =>
    count === 0 ? 0 : useOf(firsts[index]!, count) + model.computePerDevice[index]! * scale,
  )
  const hostUnits = unitCount - sum(counts)
  const hostWeights = sum(input.unitBytes.slice(0, hostUnits)) + model.hostOtherBytes
  const mapped = hostWeights * (1 - model.hostCopiedShare)
  const hostUse =
    useOf(0, hostUnits) +
    model.hostOtherBytes -
    mapped +
    model.hostComputeBytes * scale +
    contextSize * CELL_BYTES * model.groupCount
  const pools = leftInPools(input, deviceUses, hostUse).map((bytes) => bytes - input.headroomBytes)
  const slackFor = (member: number, { freeBytes }: PlannerDevice, use: number): number =>
    leastOf(input, pools, member, freeBytes - input.headroomBytes - use)
  return {
    devices: input.devices.map((device, index) => slackFor(index, device, deviceUses[index]!)),
    host: slackFor(HOST, input.host, hostUse),
    pools,
  }
}

/** Leaves a little more room after each miss, so that estimates that were too low cannot repeat. */
export const tighten = (model: Model, attempt: number): Model => ({
  ...model,
  contextPerUnit: model.contextPerUnit * (1 + 0.05 * (attempt - 1)),
})

/** Whether a candidate fits, as measured. */
export const fits = (input: PlannerInput, candidate: Candidate, measured: Measurement): boolean => {
  const deviceUses = measured.devices.map((use, index) =>
    candidate.unitCounts[index] === 0 ? 0 : totalOf(use),
  )
  const hostUse =
    totalOf(measured.host) -
    (input.mapsWeights ? measured.hostFileLayoutBytes : 0) +
    candidate.contextSize * CELL_BYTES * (measured.groupCount ?? 1)
  const hasRoom = (freeBytes: number, use: number): boolean =>
    use === 0 || use <= freeBytes - input.headroomBytes
  return (
    input.devices.every(({ freeBytes }, index) => hasRoom(freeBytes, deviceUses[index]!)) &&
    hasRoom(input.host.freeBytes, hostUse) &&
    leftInPools(input, deviceUses, hostUse).every((bytes, place) => {
      const { freeBytes } = input.pools![place]!
      return hasRoom(freeBytes, freeBytes - bytes)
    })
  )
}
