/** What flags say of where a model's weights go, and how its positions turn. */
import type { Cluster } from "@ggml-rpc/client"
import type { FlagValues } from "../flags/Flag.ts"
import type { contextFlags } from "../flags/model.ts"
import { withoutAbsent } from "./withoutAbsent.ts"

type ContextValues = FlagValues<typeof contextFlags>

export interface DeviceChoice {
  /** Devices of this machine; undefined: every GPU. */
  readonly localDevices: ReadonlyArray<string> | undefined
  /** All devices to use, in order; undefined: all that there are. */
  readonly devices: ReadonlyArray<string> | undefined
}

/** `RPC0`, or a server's address. */
const isRemote = (name: string): boolean => /^RPC\d+$/.test(name) || name.includes(":")

/** Names of this machine's devices leave the servers as they are; with servers among them they are all that is used. */
export const deviceChoice = (names: ReadonlyArray<string> | undefined): DeviceChoice => {
  if (names?.length === 1 && names[0]!.toLowerCase() === "none") {
    return { localDevices: [], devices: undefined }
  }
  return names?.some(isRemote)
    ? { localDevices: names.filter((name) => !isRemote(name)), devices: names }
    : { localDevices: names, devices: undefined }
}

/** The newer flag says it all. */
const loadModeOf = ({ loadMode, mmap, mlock }: ContextValues) =>
  loadMode === undefined
    ? { mmap, mlock }
    : { mmap: /auto|mmap/.test(loadMode), mlock: loadMode.includes("mlock") }

export const ropeOf = (values: ContextValues): Cluster.PlanOptions["rope"] =>
  withoutAbsent({
    scaling: values.ropeScaling,
    freqBase: values.ropeFreqBase,
    freqScale:
      values.ropeFreqScale ?? (values.ropeScale === undefined ? undefined : 1 / values.ropeScale),
    yarnOrigCtx: values.yarnOrigCtx,
    yarnExtFactor: values.yarnExtFactor,
    yarnAttnFactor: values.yarnAttnFactor,
    yarnBetaSlow: values.yarnBetaSlow,
    yarnBetaFast: values.yarnBetaFast,
  })

/** Names of experts' tensors (llama.cpp v0.5.0 common/common.h, LLM_FFN_EXPS_REGEX). */
const EXPERTS = "\\.ffn_(up|down|gate|gate_up)_(ch|)exps"

const overridesOf = ({ overrideTensor = [], cpuMoe, nCpuMoe = 0 }: ContextValues) => [
  ...overrideTensor,
  ...(cpuMoe ? [{ pattern: EXPERTS, device: "CPU" }] : []),
  ...Array.from({ length: nCpuMoe }, (_, layer) => ({
    pattern: `blk\\.${layer}${EXPERTS}`,
    device: "CPU",
  })),
]

const adaptersOf = ({ lora = [], loraScaled = [] }: ContextValues) => [
  ...lora.map((path) => ({ path, scale: 1 })),
  ...loraScaled,
]

export const weightOptionsOf = (values: ContextValues): Cluster.PlanOptions => ({
  ...loadModeOf(values),
  overrides: overridesOf(values),
  adapters: adaptersOf(values),
})
