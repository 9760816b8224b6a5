/** Which of two plans takes less time: with layers split, or with tensors cut. */
import { type GgufFile, ggufInteger, ggufString } from "@ggml-rpc/gguf"
import type { DeviceSpeed, LinkSpeed } from "./engine/messages.ts"
import type { Plan } from "./planner/index.ts"
import {
  type SplitDevice,
  type SplitTimes,
  type SplitWork,
  splitTimes,
} from "./planner/splitTime.ts"

/** What was measured of the devices and of the ways to them. */
export interface Measured {
  readonly links: ReadonlyArray<LinkSpeed>
  readonly devices: ReadonlyArray<DeviceSpeed>
  readonly isLinkable: boolean
}

/** How a plan came to its way of splitting, where that was left to it. */
export type SplitChoice =
  | { readonly times: SplitTimes }
  /** Why layers are split, whatever it takes. */
  | { readonly reason: string }

const F32_BYTES = 4
const BF16_BYTES = 2

const EXPERTS = /_exps\./

/** Of a token: all weights but the input embedding, of experts those that are used. `isBf16`: how activations travel. */
export const workOf = (gguf: GgufFile, isBf16 = false): SplitWork => {
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
    multiplications += ne.reduce((product, count) => product * count, 1) * share
  }
  return {
    weightBytes,
    multiplications,
    blockCount: value("block_count") ?? 1,
    hiddenBytes: (value("embedding_length") ?? 1) * (isBf16 ? BF16_BYTES : F32_BYTES),
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

/** `places`: the server of each device. */
export const chooseSplit = (
  work: SplitWork,
  layer: Plan,
  tensor: Plan,
  places: ReadonlyArray<string>,
  { devices, isLinkable, links }: Measured,
): SplitChoice => {
  const reason = objection(layer, tensor)
  if (reason !== undefined) return { reason }
  const onDevices = (unitCount: number): number => Math.max(1, unitCount)
  const layerUnits = onDevices(layer.devices.reduce((sum, { unitCount }) => sum + unitCount, 0))
  const found: Array<SplitDevice> = []
  for (const [index, { name, unitCount }] of layer.devices.entries()) {
    const tensorShare = tensor.devices[index]!.share ?? 0
    if (unitCount === 0 && tensorShare === 0) continue
    const speed = devices.find(({ device }) => device === name)
    const link = links.find(({ endpoint }) => endpoint === places[index])
    const rates = [link?.uploadBytesPerSecond, link?.downloadBytesPerSecond]
    const [up, down] = rates
    if (speed === undefined || link === undefined || up === undefined || down === undefined) {
      return { reason: `how fast ${name} is could not be measured` }
    }
    found.push({
      weightBytesPerSecond: speed.weightBytesPerSecond,
      multiplicationsPerSecond: speed.multiplicationsPerSecond,
      roundTripMs: link.roundTripMs,
      bytesPerSecond: Math.min(up, down),
      layerShare: unitCount / layerUnits,
      tensorShare,
    })
  }
  return { times: splitTimes(work, found, isLinkable) }
}
