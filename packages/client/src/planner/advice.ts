/** Says what is missing, and what would fit. */
import { formatNeededBytes } from "@ggml-rpc/native/bindings"
import { PlanError } from "../errors.ts"
import { fits, learn, type Model, type Slack, slackOf } from "./estimate.ts"
import { largestContext, largestGpuLayers, rebalance, spread } from "./fit.ts"
import { freeTogether, HOST } from "./pools.ts"
import {
  type Candidate,
  type Measurement,
  type PlannerDevice,
  type PlannerInput,
  sum,
} from "./types.ts"

/** How often a shorter context is tried before no advice is given. */
const MAX_ADVICE_MEASUREMENTS = 3

/**
 * Advice leaves so much of what each device could give: it is followed a moment later, when other programs have taken
 * some.
 */
const ADVICE_MARGIN = 1 / 32

const withMargin = (input: PlannerInput): PlannerInput => {
  const less = <D extends Pick<PlannerDevice, "freeBytes">>(device: D): D => ({
    ...device,
    freeBytes: device.freeBytes - (device.freeBytes - input.headroomBytes) * ADVICE_MARGIN,
  })
  return {
    ...input,
    devices: input.devices.map(less),
    host: less(input.host),
    ...(input.pools && { pools: input.pools.map(less) }),
  }
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

/**
 * The sum over memories: of devices that share one, what their pool has, or, where a limit of their own is narrower, they
 * themselves.
 */
const overAll = (
  { pools = [] }: PlannerInput,
  slack: Slack,
  of: (bytes: number) => number,
): number => {
  const outer = [...pools.entries()].filter(([, { isInner }]) => !isInner)
  const pooled = new Set(outer.flatMap(([, { members }]) => members))
  const alone = [...slack.devices.entries(), [HOST, slack.host] as const]
  const slackOfMember = (index: number): number =>
    index === HOST ? slack.host : slack.devices[index]!
  return (
    sum(alone.map(([index, bytes]) => (pooled.has(index) ? 0 : of(bytes)))) +
    sum(
      outer.map(([place, { members }]) =>
        of(Math.min(slack.pools[place]!, ...members.map(slackOfMember))),
      ),
    )
  )
}

/** What is missing where: with the best split there is, unless the split was given. */
const shortage = (model: Model, candidate: Candidate) => {
  const missingWith = (counts: ReadonlyArray<number>) => {
    const slack = slackOf(model, counts, candidate.contextSize)
    return { counts, slack, missing: overAll(model.input, slack, (bytes) => Math.max(0, -bytes)) }
  }
  const asTried = missingWith(candidate.unitCounts)
  if (model.input.tensorSplit !== undefined) return asTried
  const best = missingWith(spread(model, candidate.unitCounts, candidate.contextSize).counts)
  // Nothing is missing by the estimate where it promises more than the measurement holds.
  return best.missing > 0 ? best : asTried
}

/** `RPC0, RPC1 and this host`. */
const listed = (names: ReadonlyArray<string>): string =>
  `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`

/** `RPC0 lacks 2.00 GiB of 7.50 GiB`, or what all have where it is missing from all of them. */
const whereMissing = (input: PlannerInput, slack: Slack): string => {
  const tooFull = (input.pools ?? []).filter(
    ({ isInner }, place) => !isInner && slack.pools[place]! < 0,
  )
  const inFull = new Set(tooFull.flatMap(({ members }) => members))
  const short = input.devices.flatMap((device, index) => {
    const missing = -slack.devices[index]!
    return missing > 0 && !inFull.has(index)
      ? [
          `${device.name} lacks ${formatNeededBytes(missing)} of ${formatNeededBytes(device.freeBytes + missing)}`,
        ]
      : []
  })
  for (const pool of tooFull) {
    const missing = -slack.pools[(input.pools ?? []).indexOf(pool)]!
    const names = pool.members.map((index) => input.devices[index]?.name ?? "this host")
    short.push(
      `${listed(names)} share one memory, which lacks ${formatNeededBytes(missing)} of ${formatNeededBytes(pool.freeBytes + missing)}`,
    )
  }
  if (short.length === 0 && input.devices.length > 0) {
    const names = input.devices.map(({ name }) => name).join(", ")
    return `${names} and this host have ${formatNeededBytes(freeTogether(input))} free together`
  }
  if (slack.host < 0 && !inFull.has(HOST))
    short.push(`this host lacks ${formatNeededBytes(-slack.host)}`)
  return short.join("; ")
}

/** The error for a candidate that does not fit; measures what it advises. */
export function* doesNotFit(
  model: Model,
  candidate: Candidate,
): Generator<Candidate, PlanError, Measurement> {
  const { input } = model
  const { contextSize } = candidate
  const { counts, missing, slack } = shortage(model, candidate)
  // Negative where it lacks memory, and then no help.
  const spare = overAll(input, { ...slack, host: Number.POSITIVE_INFINITY }, (bytes) =>
    bytes === Number.POSITIVE_INFINITY ? 0 : Math.max(0, bytes),
  )
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
    detail: `The model does not fit: ${formatNeededBytes(missing)} of memory are missing (${whereMissing(input, slack)}). ${
      advice.length > 0
        ? `${advice[0]!.charAt(0).toUpperCase()}${advice[0]!.slice(1)}${advice.length > 1 ? `; or ${advice.slice(1).join("; or ")}` : ""}.`
        : "Add a server with more memory, or use a smaller quantization of the model."
    }`,
  })
}
