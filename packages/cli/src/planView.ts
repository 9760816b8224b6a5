/** A plan, and what a loaded model takes, for people and as JSON. */

import {
  type Cluster,
  type DevicePlan,
  type DeviceUse,
  describeUnsupported,
  type Measurement,
} from "@ggml-rpc/client"
import { formatBytes } from "@ggml-rpc/native/bindings"
import { describeShared } from "./sharedMemory.ts"
import { type Column, formatTable, type TableOptions } from "./table.ts"
import { wrap } from "./wrap.ts"

/**
 * The layers of a run of units as text: `0–3`, `4–7, output`, `–` for none. Units are the blocks in
 * order, then the output layer (see the client's planner).
 */
export const formatLayers = (firstUnit: number, count: number, unitCount: number): string => {
  if (count === 0) return "–"
  const end = firstUnit + count
  const blockEnd = Math.min(end, unitCount - 1)
  const blocks = blockEnd - firstUnit
  const parts = [
    ...(blocks === 1 ? [`${firstUnit}`] : blocks > 1 ? [`${firstUnit}–${blockEnd - 1}`] : []),
    ...(end === unitCount ? ["output"] : []),
  ]
  return parts.join(", ")
}

/** What a device has: whole layers, or so much of each tensor of these. */
const deviceLayers = ({ firstUnit, unitCount, share }: DevicePlan, ofUnits: number): string => {
  const layers = formatLayers(firstUnit, unitCount, ofUnits)
  return share === undefined || unitCount === 0
    ? layers
    : `${Math.round(share * 100)}% of ${layers}`
}

/** This host's part: the input embedding, and the layers that no device got. */
const hostLayers = (plan: Cluster.ModelPlan): string => {
  const layers = formatLayers(plan.host.firstUnit, plan.host.unitCount, plan.unitCount)
  return layers === "–" ? "input" : `input, ${layers}`
}

const right = (title: string): Column => ({ title, align: "right" })

const planColumns: ReadonlyArray<Column> = [
  { title: "device" },
  // Wide enough for an address with its port.
  { title: "place", minWidth: 21 },
  { title: "layers" },
  right("weights"),
  right("KV cache"),
  right("compute"),
  right("free after"),
]

const planRow = (device: DevicePlan, place: string, layers: string): ReadonlyArray<string> => [
  device.name,
  place,
  layers,
  formatBytes(device.weightBytes),
  formatBytes(device.contextBytes),
  formatBytes(device.computeBytes),
  formatBytes(device.freeAfterBytes),
]

export const formatPlanTable = (plan: Cluster.ModelPlan, options: TableOptions = {}): string =>
  formatTable(
    planColumns,
    [
      ...plan.devices.map((device, index) =>
        planRow(device, plan.places[index]!, deviceLayers(device, plan.unitCount)),
      ),
      planRow(plan.host, "local", hostLayers(plan)),
    ],
    options,
  )

/** What there is to know of a plan besides its table: memory that was counted once, what devices do not support. */
export const planNotes = (
  plan: Cluster.ModelPlan,
  columns = Number.POSITIVE_INFINITY,
): ReadonlyArray<string> =>
  [
    ...plan.shared.map(describeShared),
    ...(plan.leftOut.length === 0
      ? []
      : [
          `warning: ${plan.leftOut.join(", ")} ${plan.leftOut.length === 1 ? "is" : "are"} left out: llama.cpp splits a model over 15 devices and this CPU at most, and the others have more memory free`,
        ]),
    ...(plan.choice === undefined ? [] : describeChoice(plan.choice)),
    ...(plan.cutShares === undefined ? [] : [describeShares(plan, plan.cutShares)]),
    ...plan.unsupported.map((ops) => `warning: ${describeUnsupported(ops)}`),
  ].flatMap((note) => wrap(note, columns))

/** Why layers are split, or tensors cut. */
const describeChoice = (
  choice: NonNullable<Cluster.ModelPlan["choice"]>,
): ReadonlyArray<string> => {
  if ("reason" in choice) return [`layers are split: ${choice.reason}`]
  const { fewer, times } = choice
  const { layer, tensor, faster } = times
  const time = ({ tokenMs, promptMs }: typeof layer): string =>
    `${tokenMs.toFixed(1)} ms a token and ${(promptMs / 1000).toFixed(2)} s for a prompt of 512`
  return [
    `${faster === "tensor" ? "tensors are cut" : "layers are split"}, by an estimate: layers ${time(layer)}, tensors ${time(tensor)}`,
    ...(fewer === undefined
      ? []
      : [
          `it would be faster with ${fewer.devices.join(", ")} alone, by the estimate: ${time(fewer.time)} (--device ${fewer.devices.join(",")})`,
        ]),
  ]
}

/** By what tensors were shared out. */
const describeShares = (
  { devices }: Cluster.ModelPlan,
  basis: NonNullable<Cluster.ModelPlan["cutShares"]>,
): string => {
  if ("reason" in basis)
    return `tensors are cut in equal parts, as far as memory goes: ${basis.reason}`
  const { speeds } = basis
  const whole = speeds.reduce((sum, speed) => sum + speed, 0)
  const short = devices.filter(({ share = 0 }, at) => share < speeds[at]! / whole - 0.005)
  const names = short.map(({ name }) => name).join(", ")
  const less =
    short.length === 0
      ? ""
      : `; ${names} ${short.length === 1 ? "has" : "have"} no memory for that much`
  if (speeds.every((speed) => speed === 1)) {
    return `tensors are cut in equal parts: devices multiply equally fast${less}`
  }
  const each = devices.map(({ name }, at) => `${name} ${speeds[at]!.toFixed(2)}`).join(", ")
  return `tensors are cut by how fast devices multiply, the fastest 1: ${each}${less}`
}

/** Model and context in a line or two. */
export const formatPlanTitle = (plan: Cluster.ModelPlan): string => {
  const name = plan.name === undefined ? "" : `${plan.name}: `
  const layers = plan.unitCount - 1
  const title = `${name}${plan.architecture}, ${layers} layer${layers === 1 ? "" : "s"}, ${formatBytes(plan.modelBytes)}`
  const { groupCount = 1 } = plan.context
  const each = groupCount > 1 ? ` for each of ${groupCount} groups` : ""
  return plan.wantedContextSize === undefined
    ? `${title}, context ${plan.contextSize}${each}`
    : `${title}\ncontext ${plan.wantedContextSize} → ${plan.contextSize}${each}: that is what fits`
}

const total = (use: DeviceUse): number => use.weightBytes + use.contextBytes + use.computeBytes

/** What each device and this host really hold. */
export const formatBreakdown = (
  plan: Cluster.ModelPlan,
  breakdown: Measurement,
  options: TableOptions = {},
): string => {
  const row = (name: string, place: string, use: DeviceUse): ReadonlyArray<string> => [
    name,
    place,
    formatBytes(use.weightBytes),
    formatBytes(use.contextBytes),
    formatBytes(use.computeBytes),
    formatBytes(total(use)),
  ]
  return formatTable(
    [
      { title: "device" },
      // Wide enough for an address with its port.
      { title: "place", minWidth: 21 },
      right("weights"),
      right("KV cache"),
      right("compute"),
      right("total"),
    ],
    [
      ...plan.devices.map((device, index) =>
        row(device.name, plan.places[index]!, breakdown.devices[index]!),
      ),
      row(plan.host.name, "local", breakdown.host),
    ],
    options,
  )
}

const deviceJson = (plan: Cluster.ModelPlan, device: DevicePlan, place: string) => ({
  ...device,
  place,
  layers: deviceLayers(device, plan.unitCount),
})

/** The plan as JSON; sizes in bytes. `firstUnit` and `unitCount` count blocks, then the output layer. */
export const planJson = (plan: Cluster.ModelPlan): PlanJson => ({
  ...modelJson(plan),
  ...(plan.draft && { draft: modelJson(plan.draft) }),
})

type PlanJson = ReturnType<typeof modelJson> & { readonly draft?: ReturnType<typeof modelJson> }

const modelJson = (plan: Cluster.ModelPlan) => ({
  model: {
    path: plan.path,
    architecture: plan.architecture,
    ...(plan.name === undefined ? {} : { name: plan.name }),
    sizeBytes: plan.modelBytes,
    layerCount: plan.unitCount - 1,
  },
  contextSize: plan.contextSize,
  ...(plan.wantedContextSize === undefined ? {} : { wantedContextSize: plan.wantedContextSize }),
  ...(plan.context.groupCount && { groupCount: plan.context.groupCount }),
  unitCount: plan.unitCount,
  splitMode: plan.splitMode,
  ...(plan.choice && { choice: plan.choice }),
  ...(plan.cutShares && { cutShares: plan.cutShares }),
  devices: plan.devices.map((device, index) => deviceJson(plan, device, plan.places[index]!)),
  host: { ...deviceJson(plan, plan.host, "local"), layers: hostLayers(plan) },
  shared: plan.shared,
  leftOut: plan.leftOut,
  unsupported: plan.unsupported,
  exactServers: plan.exactServers,
})
