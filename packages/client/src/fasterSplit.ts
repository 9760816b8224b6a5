/** Which of two plans takes less time: with layers split, or with tensors cut. */
import { type GgufFile, ggufInteger, ggufString } from "@ggml-rpc/gguf"
import type { DeviceSpeed, LinkSpeed } from "./engine/messages.ts"
import type { ModelPlan } from "./ModelPlan.ts"
import type { DevicePlan, Plan } from "./planner/index.ts"
import { relativeSpeeds } from "./planner/relativeSpeeds.ts"
import {
  isFaster,
  type SplitDevice,
  type SplitTime,
  type SplitTimes,
  type SplitWays,
  type SplitWork,
  speedOf,
  splitTimes,
  wholeMs,
} from "./planner/splitTime.ts"
import { sum } from "./planner/types.ts"

/** What was measured of the devices and of the ways to them. */
export interface Measured {
  readonly links: ReadonlyArray<LinkSpeed>
  readonly devices: ReadonlyArray<DeviceSpeed>
  /** Why the servers could not exchange partial sums themselves. */
  readonly unlinked?: string
}

/** What counts of a plan here. */
export type PlannedSplit = Plan &
  Pick<ModelPlan, "places"> & { readonly context: Pick<ModelPlan["context"], "ubatchSize"> }

/** How a plan came to its way of splitting, where that was left to it. */
export type SplitChoice =
  | {
      readonly times: SplitTimes
      /** Devices without one that the others would be faster without, and what they would take. */
      readonly fewer?: { readonly devices: ReadonlyArray<string>; readonly time: SplitTime }
    }
  /** Why layers are split, whatever it takes. */
  | { readonly reason: string }

/** How the shares of tensors that are cut came about, where that was left to the plan. */
export type CutShares =
  /** How fast devices compute, the fastest 1; what has no memory for that much has less. */
  | { readonly speeds: ReadonlyArray<number> }
  /** Why they are the same for each, as far as memory goes. */
  | { readonly reason: string }

/** Shares in proportion to how fast devices compute a model. */
export const cutSharesOf = (
  work: SplitWork,
  names: ReadonlyArray<string>,
  measured: ReadonlyArray<DeviceSpeed>,
): CutShares => {
  const speeds: Array<number> = []
  for (const name of names) {
    const speed = measured.find(({ device }) => device === name)
    if (speed === undefined) return { reason: unmeasured(name) }
    speeds.push(speedOf(work, speed))
  }
  return { speeds: relativeSpeeds(speeds) }
}

const unmeasured = (name: string): string => `how fast ${name} is could not be measured`

const BLOCK = /^blk\./
const EXPERTS = /_exps\./

/** Of a token: all weights but the input embedding, of experts those that are used. */
export const workOf = (gguf: GgufFile): SplitWork => {
  const architecture = ggufString(gguf, "general.architecture") ?? ""
  const value = (key: string): number | undefined => ggufInteger(gguf, `${architecture}.${key}`)
  const expertCount = value("expert_count") || 1
  const usedShare = Math.min(1, (value("expert_used_count") || expertCount) / expertCount)
  let weightBytes = 0
  let multiplications = 0
  const hasOutput = gguf.tensors.some(({ name }) => name === "output.weight")
  for (const { name, ne, sizeBytes } of gguf.tensors) {
    if (name === "token_embd.weight" && hasOutput) continue
    const share = EXPERTS.test(name) ? usedShare : 1
    weightBytes += sizeBytes * share
    if (!BLOCK.test(name)) continue
    multiplications += ne.reduce((product, count) => product * count, 1) * share
  }
  return {
    weightBytes,
    multiplications,
    hasExperts: expertCount > 1,
    blockCount: value("block_count") ?? 1,
    embeddingLength: value("embedding_length") ?? 1,
  }
}

/** Why tensors are not cut although they could be; undefined where speed decides. */
const objection = (layer: Plan, tensor: Plan): string | undefined => {
  if (tensor.splitMode !== "tensor") return "there is one device"
  if (tensor.host.unitCount > layer.host.unitCount) {
    return "with tensors cut, more layers would have to stay on this machine's CPU"
  }
  return tensor.contextSize < layer.contextSize
    ? "with tensors cut, there would be room for a shorter context alone"
    : undefined
}

/** `isBf16`: how activations would travel. */
export const chooseSplit = (
  work: SplitWork,
  layer: PlannedSplit,
  tensor: PlannedSplit,
  { devices, links, unlinked }: Measured,
  isBf16: boolean,
): SplitChoice => {
  const reason = objection(layer, tensor)
  if (reason !== undefined) return { reason }
  const weightBytes = sum(layer.devices.map((device) => device.weightBytes))
  const blocksOf = ({ firstUnit, unitCount }: DevicePlan): number =>
    firstUnit + unitCount === layer.unitCount ? Math.max(0, unitCount - 1) : unitCount
  const blockCount = Math.max(1, sum(layer.devices.map(blocksOf)))
  const found: Array<SplitDevice & { readonly name: string }> = []
  for (const [index, { name, unitCount, ...own }] of layer.devices.entries()) {
    const cut = tensor.devices[index]!
    if (unitCount === 0 && cut.unitCount === 0) continue
    const place = layer.places[index]!
    const speed = devices.find(({ device }) => device === name)
    const link = links.find(({ endpoint }) => endpoint === place)
    const rates = [link?.uploadBytesPerSecond, link?.downloadBytesPerSecond]
    const [up, down] = rates
    if (speed === undefined || link === undefined || up === undefined || down === undefined) {
      return { reason: unmeasured(name) }
    }
    found.push({
      ...{ ...speed, name, place, roundTripMs: link.roundTripMs },
      bytesPerSecond: Math.min(up, down),
      layerShare: own.weightBytes / weightBytes,
      blockShare: blocksOf(layer.devices[index]!) / blockCount,
      tensorShare: cut.weightBytes / weightBytes,
    })
  }
  const { ubatchSize } = layer.context
  const ways = { isLinked: unlinked === undefined, ubatchSize, isBf16 }
  const times = splitTimes(work, found, ways)
  const fewer = withoutOne(work, found, ways, times[times.faster])
  const plan = times.faster === "tensor" ? tensor : layer
  return { times, ...(fewer !== undefined && hasRoomFor(plan, fewer.devices) && { fewer }) }
}

/** What is fastest of all but one of the devices, if that is faster. */
const withoutOne = (
  work: SplitWork,
  devices: ReadonlyArray<SplitDevice & { readonly name: string }>,
  ways: SplitWays,
  time: SplitTime,
) =>
  devices
    .map((left) => {
      const others = devices.filter((device) => device !== left)
      const times = splitTimes(work, sharedOut(others), ways)
      return {
        devices: others.map(({ name }) => name),
        time: times[others.length < 2 ? "layer" : times.faster],
      }
    })
    .filter((found) => isFaster(found.time, time))
    .sort((one, other) => wholeMs(one.time) - wholeMs(other.time))[0]

/** With shares in the proportions that they have, but of all. */
const sharedOut = (devices: ReadonlyArray<SplitDevice>): ReadonlyArray<SplitDevice> => {
  const whole = (of: (device: SplitDevice) => number): number => sum(devices.map(of))
  const [ofLayers, ofBlocks, ofTensors] = [
    whole((device) => device.layerShare),
    whole((device) => device.blockShare),
    whole((device) => device.tensorShare),
  ]
  return devices.map((device) => ({
    ...device,
    layerShare: device.layerShare / ofLayers,
    blockShare: device.blockShare / ofBlocks,
    tensorShare: device.tensorShare / ofTensors,
  }))
}

/** Whether what the other devices have of a plan could be on these as well. */
const hasRoomFor = ({ devices }: Plan, names: ReadonlyArray<string>): boolean => {
  const isNamed = ({ name }: DevicePlan): boolean => names.includes(name)
  const moved = devices.filter((device) => !isNamed(device))
  return (
    sum(moved.map(({ weightBytes, contextBytes }) => weightBytes + contextBytes)) <=
    sum(devices.filter(isNamed).map(({ freeAfterBytes }) => freeAfterBytes))
  )
}
