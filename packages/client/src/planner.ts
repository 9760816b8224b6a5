/**
 * Which layer goes where. Pure: it knows layers, devices and bytes, and asks `measure` what a candidate
 * takes (libllama's own accounting of a load without memory, see engine/).
 *
 * A model of N blocks has N + 1 units: the blocks in order, then the output layer. Each device gets a
 * run of consecutive units, and the CPU of this host the first ones that no device gets; the input
 * embedding always stays on the CPU. This is llama.cpp's layer split (llama-model.cpp, `load_tensors`).
 */
import { PlanError } from "./errors.ts"

/** A device that can hold layers, remote or local. */
export interface PlannerDevice {
  /** `RPC0`, `CUDA0`. */
  readonly name: string
  readonly freeBytes: number
  readonly totalBytes: number
}

/** Bytes that one candidate takes on one device. */
export interface DeviceUse {
  readonly weightBytes: number
  /** KV cache and recurrent state. */
  readonly contextBytes: number
  /** Compute buffers. */
  readonly computeBytes: number
}

/** A candidate: how many units each device gets, and the context length. */
export interface Candidate {
  readonly unitCounts: ReadonlyArray<number>
  readonly contextSize: number
}

/** What a candidate takes: one entry a device, and the CPU of this host. */
export interface Measurement {
  readonly devices: ReadonlyArray<DeviceUse>
  readonly host: DeviceUse
  /**
   * Of the host's weights, bytes in the file's own layout: these can be mapped from the file. Repacked
   * ones (CPU_REPACK) are copies and need memory.
   */
  readonly hostFileLayoutBytes: number
}

export interface PlannerInput {
  readonly devices: ReadonlyArray<PlannerDevice>
  /** Memory of this host, for layers on its CPU, the input embedding and host buffers. */
  readonly host: PlannerDevice
  /** Exact weight bytes of each unit: the blocks, then the output layer. */
  readonly unitBytes: ReadonlyArray<number>
  /** The wanted proportions, one a device; undefined: in proportion to free memory. */
  readonly tensorSplit?: ReadonlyArray<number> | undefined
  /** How many units go to devices; undefined: all, fewer when they do not fit. */
  readonly gpuLayers?: number | undefined
  /** Tokens. */
  readonly contextSize: number
  /** Whether the context length may shrink to make the model fit, and how far. */
  readonly minContextSize?: number | undefined
  /** Bytes that stay free on every device and on this host. */
  readonly headroomBytes: number
  /** Weights on the CPU are mapped from the file, which needs no memory of its own to succeed. */
  readonly mapsWeights: boolean
}

/** A device's share of a plan. */
export interface DevicePlan extends DeviceUse {
  readonly name: string
  /** Index of the first unit, and how many follow; a unit count of 0 means the device is not used. */
  readonly firstUnit: number
  readonly unitCount: number
  readonly freeBytes: number
  readonly totalBytes: number
  /** Free bytes once the model is loaded. */
  readonly freeAfterBytes: number
}

export interface Plan {
  readonly devices: ReadonlyArray<DevicePlan>
  /** The CPU of this host: input embedding, and the units that no device got. */
  readonly host: DevicePlan
  /** Blocks and the output layer. */
  readonly unitCount: number
  readonly contextSize: number
  /** The context length that was asked for, when it had to shrink. */
  readonly wantedContextSize?: number
}

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

const totalOf = (use: DeviceUse): number => use.weightBytes + use.contextBytes + use.computeBytes

const sum = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0)

/** First unit of each device: the host holds the units before. */
const firstUnits = (unitCount: number, counts: ReadonlyArray<number>): ReadonlyArray<number> => {
  let next = unitCount - sum(counts)
  return counts.map((count) => {
    const first = next
    next += count
    return first
  })
}

/** Context bytes a unit and a token, and fixed costs, learned from a measurement. */
interface Model {
  readonly input: PlannerInput
  readonly contextPerUnit: number
  readonly computePerDevice: ReadonlyArray<number>
  readonly hostComputeBytes: number
  /** Weight bytes on the host that are in no unit: the input embedding. */
  readonly hostOtherBytes: number
  /** Share of the host's weights that need memory of their own. */
  readonly hostCopiedShare: number
  readonly contextSize: number
}

const learn = (input: PlannerInput, candidate: Candidate, measured: Measurement): Model => {
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
  }
}

/**
 * Memory of this host that libllama takes for each token of a context besides all buffers, its table of
 * KV cells: 52 bytes measured (v0.5.0), doubled for safety. It takes it in a measurement too.
 */
const CELL_BYTES = 104

/**
 * What can be measured in place of a candidate: one whose context is so absurdly long that its table of
 * cells alone would not fit into this host is judged by a shorter one.
 */
const measurable = (input: PlannerInput, candidate: Candidate): Candidate =>
  candidate.contextSize * CELL_BYTES <= input.host.freeBytes
    ? candidate
    : { ...candidate, contextSize: Math.min(4096, candidate.contextSize) }

/** Estimated free bytes of each device with these counts; negative where it does not fit. */
const slackOf = (model: Model, counts: ReadonlyArray<number>, contextSize: number) => {
  const { input } = model
  const unitCount = input.unitBytes.length
  const firsts = firstUnits(unitCount, counts)
  const scale = model.contextSize > 0 ? contextSize / model.contextSize : 1
  const useOf = (first: number, count: number): number => {
    const blocks = Math.max(0, Math.min(first + count, unitCount - 1) - first)
    return sum(input.unitBytes.slice(first, first + count)) + blocks * model.contextPerUnit * scale
  }
  const devices = counts.map((count, index) =>
    count === 0
      ? input.devices[index]!.freeBytes - input.headroomBytes
      : input.devices[index]!.freeBytes -
        input.headroomBytes -
        useOf(firsts[index]!, count) -
        model.computePerDevice[index]! * scale,
  )
  const hostUnits = unitCount - sum(counts)
  const hostWeights = sum(input.unitBytes.slice(0, hostUnits)) + model.hostOtherBytes
  const mapped = hostWeights * (1 - model.hostCopiedShare)
  const host =
    input.host.freeBytes -
    input.headroomBytes -
    (useOf(0, hostUnits) + model.hostOtherBytes - mapped) -
    model.hostComputeBytes * scale -
    contextSize * CELL_BYTES
  return { devices, host }
}

/** Unit counts, and whether all of it fits by the estimate. */
interface Spread {
  readonly counts: ReadonlyArray<number>
  readonly fits: boolean
}

/**
 * Moves units from devices that are too full to those with the most room, then to the host, until all
 * fits by the estimate, or nothing can be moved any more.
 */
const spread = (model: Model, start: ReadonlyArray<number>, contextSize: number): Spread => {
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
const rebalance = (
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
const largestContext = (model: Model, start: ReadonlyArray<number>, below: number): number => {
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
const largestGpuLayers = (model: Model, contextSize: number): number => {
  const { input } = model
  const free = { ...model, input: { ...input, gpuLayers: undefined } }
  for (let units = input.unitBytes.length; units > 0; units--) {
    const counts = splitUnits(
      units,
      input.devices.map((device) => Math.max(0, device.freeBytes)),
    )
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

const gib = (bytes: number): string =>
  bytes >= 1024 ** 3
    ? `${(bytes / 1024 ** 3).toFixed(2)} GiB`
    : `${Math.ceil(bytes / 1024 ** 2)} MiB`

/** How often a shorter context is tried before no advice is given. */
const MAX_ADVICE_MEASUREMENTS = 3

/**
 * Advice leaves so much of what each device could give: it is followed a moment later, when other programs have taken
 * some.
 */
const ADVICE_MARGIN = 1 / 32

const withMargin = (input: PlannerInput): PlannerInput => {
  const less = <D extends PlannerDevice>(device: D): D => ({
    ...device,
    freeBytes: device.freeBytes - (device.freeBytes - input.headroomBytes) * ADVICE_MARGIN,
  })
  return { ...input, devices: input.devices.map(less), host: less(input.host) }
}

/**
 * A shorter context with which the model does fit, as measured; 0 when none was found. Estimates alone
 * would promise too much: not all of a compute buffer shrinks with the context.
 */
function* fittingContext(
  model: Model,
  candidate: Candidate,
): Generator<Candidate, number, Measurement> {
  let known = model
  let below = candidate.contextSize - 256
  for (let attempt = 0; attempt < MAX_ADVICE_MEASUREMENTS; attempt++) {
    const contextSize = largestContext(known, candidate.unitCounts, below)
    const unitCounts =
      model.input.tensorSplit === undefined
        ? rebalance(known, candidate.unitCounts, contextSize)
        : candidate.unitCounts
    if (contextSize === 0 || unitCounts === undefined) return 0
    const trial = { unitCounts, contextSize }
    const measured = yield trial
    if (fits(model.input, trial, measured)) return contextSize
    known = learn(model.input, trial, measured)
    below = contextSize - 256
  }
  return 0
}

/** What is missing where: with the best split there is, unless the split was given. */
const shortage = (model: Model, candidate: Candidate) => {
  const missingWith = (counts: ReadonlyArray<number>) => {
    const slack = slackOf(model, counts, candidate.contextSize)
    const missing = [...slack.devices, slack.host].reduce((a, b) => a + Math.max(0, -b), 0)
    return { counts, slack, missing }
  }
  const asTried = missingWith(candidate.unitCounts)
  if (model.input.tensorSplit !== undefined) return asTried
  const best = missingWith(spread(model, candidate.unitCounts, candidate.contextSize).counts)
  // Nothing is missing by the estimate where it promises more than the measurement holds.
  return best.missing > 0 ? best : asTried
}

/** `RPC0 lacks 2.00 GiB of 7.50 GiB`, or what all have where it is missing from all of them. */
const whereMissing = (input: PlannerInput, slack: ReturnType<typeof slackOf>): string => {
  const short = input.devices.flatMap((device, index) => {
    const missing = -slack.devices[index]!
    return missing > 0
      ? [`${device.name} lacks ${gib(missing)} of ${gib(device.freeBytes + missing)}`]
      : []
  })
  if (short.length === 0 && input.devices.length > 0) {
    const free = [...input.devices, input.host].map(({ freeBytes }) => freeBytes)
    const names = input.devices.map(({ name }) => name).join(", ")
    return `${names} and this host have ${gib(sum(free))} free together`
  }
  if (slack.host < 0) short.push(`this host lacks ${gib(-slack.host)}`)
  return short.join("; ")
}

function* doesNotFit(
  model: Model,
  candidate: Candidate,
): Generator<Candidate, PlanError, Measurement> {
  const { input } = model
  const { contextSize } = candidate
  const { counts, missing, slack } = shortage(model, candidate)
  const spare = slack.devices.reduce((a, b) => a + Math.max(0, b), 0)
  const careful = { ...model, input: withMargin(input) }
  // What fits without room to spare is better advice than none.
  const context =
    (yield* fittingContext(careful, candidate)) || (yield* fittingContext(model, candidate))
  const layers = largestGpuLayers(careful, contextSize)
  const advice = [
    context > 0 ? `a context of ${context} tokens (--ctx-size ${context}) would fit` : undefined,
    layers > 0 && layers < sum(counts)
      ? `${layers} of ${input.unitBytes.length} layers on the devices (--gpu-layers ${layers}) would fit, the rest on this host's CPU`
      : undefined,
    input.tensorSplit !== undefined && spare >= missing
      ? "another --tensor-split would fit; without it the split follows free memory"
      : undefined,
  ].filter((line) => line !== undefined)
  return new PlanError({
    reason: "does-not-fit",
    missingBytes: Math.ceil(missing),
    detail: `The model does not fit: ${gib(missing)} of memory are missing (${whereMissing(input, slack)}). ${
      advice.length > 0
        ? `${advice[0]!.charAt(0).toUpperCase()}${advice[0]!.slice(1)}${advice.length > 1 ? `; or ${advice.slice(1).join("; or ")}` : ""}.`
        : "Add a server with more memory, or use a smaller quantization of the model."
    }`,
  })
}

/** The first candidate: what llama.cpp would do. */
export const firstCandidate = (input: PlannerInput): Candidate => {
  const unitCount = input.unitBytes.length
  const wanted = Math.min(input.gpuLayers ?? unitCount, unitCount)
  const weights = input.tensorSplit ?? input.devices.map((device) => Math.max(0, device.freeBytes))
  const usable = sum(weights) > 0
  return {
    unitCounts: usable ? splitUnits(wanted, weights) : input.devices.map(() => 0),
    contextSize: input.contextSize,
  }
}

/** @throws {PlanError} when the proportions cannot be meant for these devices */
const checkTensorSplit = (input: PlannerInput): void => {
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
  if (split.some((share) => !Number.isFinite(share) || share < 0) || sum(split) <= 0) {
    throw new PlanError({
      reason: "tensor-split",
      detail: `--tensor-split ${split.join(",")} needs numbers that are not negative, and at least one above zero.`,
    })
  }
}

/** Estimates get better with each measurement; this many are enough for every layout met so far. */
const MAX_MEASUREMENTS = 6

/**
 * The planner as a generator: yields candidates, is given their measurements, returns the plan.
 *
 * @throws {PlanError}
 */
export function* planSteps(input: PlannerInput): Generator<Candidate, Plan, Measurement> {
  checkTensorSplit(input)
  let candidate = firstCandidate(input)
  let tried = measurable(input, candidate)
  let measured = yield tried
  const isFixed = input.tensorSplit !== undefined
  for (let attempt = 1; ; attempt++) {
    if (tried === candidate && fits(input, candidate, measured)) {
      return planOf(input, candidate, measured)
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

/** Leaves a little more room after each miss, so that estimates that were too low cannot repeat. */
const tighten = (model: Model, attempt: number): Model => ({
  ...model,
  contextPerUnit: model.contextPerUnit * (1 + 0.05 * (attempt - 1)),
})

const fits = (input: PlannerInput, candidate: Candidate, measured: Measurement): boolean =>
  measured.devices.every(
    (use, index) =>
      candidate.unitCounts[index] === 0 ||
      totalOf(use) <= input.devices[index]!.freeBytes - input.headroomBytes,
  ) &&
  totalOf(measured.host) -
    (input.mapsWeights ? measured.hostFileLayoutBytes : 0) +
    candidate.contextSize * CELL_BYTES <=
    input.host.freeBytes - input.headroomBytes

const planOf = (input: PlannerInput, candidate: Candidate, measured: Measurement): Plan => {
  const unitCount = input.unitBytes.length
  const firsts = firstUnits(unitCount, candidate.unitCounts)
  const planFor = (
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
    freeAfterBytes: Math.max(0, device.freeBytes - totalOf(use)),
  })
  return {
    devices: input.devices.map((device, index) =>
      planFor(device, measured.devices[index]!, firsts[index]!, candidate.unitCounts[index]!),
    ),
    host: planFor(input.host, measured.host, 0, unitCount - sum(candidate.unitCounts)),
    unitCount,
    contextSize: candidate.contextSize,
    ...(candidate.contextSize === input.contextSize
      ? {}
      : { wantedContextSize: input.contextSize }),
  }
}
