/**
 * How tensors are cut over devices: each gets a share of every one, and all compute at once (libllama's tensor split,
 * llama-model.cpp `llama_meta_device_get_split_state`, v0.5.0). It rounds shares to whole heads and blocks, tensor by tensor, so
 * what a candidate takes is measured, and estimated in proportion from there.
 */
import { formatNeededBytes } from "@ggml-rpc/native/bindings"
import { PlanError } from "../errors.ts"
import { CELL_BYTES, fits, measurable } from "./estimate.ts"
import { planOf } from "./planOf.ts"
import { HOST, leastOf, leftInPools } from "./pools.ts"
import {
  type Candidate,
  type DeviceUse,
  type Measurement,
  type Plan,
  type PlannerInput,
  sum,
  totalOf,
} from "./types.ts"

/** Shares are moved from one device to another in such parts. */
const PARTS = 128
const MAX_MEASUREMENTS = 8
/** How often a shorter context is tried before no advice is given. */
const MAX_ADVICE_MEASUREMENTS = 3
/** The step of context lengths. */
const CONTEXT_STEP = 256

/** What a candidate took, to estimate others by. */
interface Known {
  readonly input: PlannerInput
  readonly candidate: Candidate
  readonly measured: Measurement
}

/** Whole numbers of parts in these proportions; none for a proportion of 0. */
const partsOf = (weights: ReadonlyArray<number>): ReadonlyArray<number> => {
  const total = sum(weights)
  const parts = weights.map((weight) =>
    weight > 0 ? Math.max(1, Math.round((weight / total) * PARTS)) : 0,
  )
  const largest = parts.indexOf(Math.max(...parts))
  parts[largest]! += PARTS - sum(parts)
  return parts
}

const candidateOf = (
  shares: ReadonlyArray<number>,
  unitCount: number,
  contextSize: number,
): Candidate => ({
  shares: shares.map((share) => share / sum(shares)),
  unitCounts: shares.map((share) => (share > 0 ? unitCount : 0)),
  contextSize,
})

const speedOf = ({ speeds }: PlannerInput, device: number): number => speeds?.[device] ?? 1

const firstOf = (input: PlannerInput): Candidate => {
  const unitCount = input.unitBytes.length
  return candidateOf(
    input.tensorSplit ??
      input.devices.map(({ freeBytes }, index) => (freeBytes > 0 ? speedOf(input, index) : 0)),
    Math.min(input.gpuLayers ?? unitCount, unitCount),
    input.contextSize,
  )
}

/** Weight bytes of the last `count` units, which are those on devices, of those of all. */
const weightShare = ({ unitBytes }: PlannerInput, count: number): number =>
  sum(unitBytes.slice(unitBytes.length - count)) / Math.max(1, sum(unitBytes))

const unitsOf = ({ unitCounts }: Candidate): number => Math.max(0, ...unitCounts)

/** Estimated free bytes of each device and of this host; negative where another candidate would not fit. */
const slackOf = ({ input, candidate, measured }: Known, other: Candidate) => {
  const scale = other.contextSize / candidate.contextSize
  const ofWeights =
    weightShare(input, unitsOf(other)) /
    Math.max(Number.EPSILON, weightShare(input, unitsOf(candidate)))
  const ofUnits = unitsOf(other) / Math.max(1, unitsOf(candidate))
  const compute = Math.max(0, ...measured.devices.map(({ computeBytes }) => computeBytes)) * scale
  const all = (of: (use: DeviceUse) => number): number => sum(measured.devices.map(of))
  const uses = other.shares!.map((share, index) => {
    if (share === 0) return 0
    const { weightBytes, contextBytes } = measured.devices[index]!
    // What rounding gave it besides its share stays about the same, whatever the share.
    const more = share - candidate.shares![index]!
    const weights = Math.max(0, weightBytes + more * all((use) => use.weightBytes))
    const context = Math.max(0, contextBytes + more * all((use) => use.contextBytes))
    return weights * ofWeights + context * ofUnits * scale + compute
  })
  const moved = (1 - ofWeights) * all((use) => use.weightBytes)
  const host =
    totalOf(measured.host) -
    (input.mapsWeights ? measured.hostFileLayoutBytes : 0) +
    (input.mapsWeights ? 0 : moved) +
    (1 - ofUnits) * all((use) => use.contextBytes) * scale +
    other.contextSize * CELL_BYTES * (measured.groupCount ?? 1)
  const left = leftInPools(input, uses, host)
  const of = (member: number, own: number): number =>
    leastOf(input, left, member, own) - input.headroomBytes
  const cutBytes =
    all((use) => use.weightBytes) * ofWeights + all((use) => use.contextBytes) * ofUnits * scale
  return {
    partBytes: cutBytes / PARTS,
    devices: input.devices.map(({ freeBytes }, index) =>
      other.shares![index] === 0 ? Number.NEGATIVE_INFINITY : of(index, freeBytes - uses[index]!),
    ),
    host: of(HOST, input.host.freeBytes - host),
  }
}

type Slack = ReturnType<typeof slackOf>

const isFull = (bytes: number): boolean => bytes < 0 && bytes !== Number.NEGATIVE_INFINITY

const hasRoom = ({ devices, host }: Slack): boolean => host >= 0 && !devices.some(isFull)

/** Of devices with room for another part the one that computes all its parts first; -1 where none has. */
const receiverOf = (
  input: PlannerInput,
  { devices, partBytes }: Slack,
  parts: ReadonlyArray<number>,
): number => {
  let found = -1
  let shortest = Number.POSITIVE_INFINITY
  for (const [index, bytes] of devices.entries()) {
    const time = (parts[index]! + 1) / speedOf(input, index)
    if (bytes < partBytes || time >= shortest) continue
    found = index
    shortest = time
  }
  return found
}

/** Shares with which all fits by the estimate, moved from full devices to the fastest with room; undefined where none are. */
const spreadShares = (
  known: Known,
  unitCount: number,
  contextSize: number,
): Candidate | undefined => {
  const { input, candidate } = known
  const isFixed = input.tensorSplit !== undefined
  const parts = [...partsOf(isFixed ? input.tensorSplit! : candidate.shares!)]
  for (let moves = 0; moves <= parts.length * PARTS; moves++) {
    const tried = candidateOf(isFixed ? input.tensorSplit! : parts, unitCount, contextSize)
    const slack = slackOf(known, tried)
    if (hasRoom(slack)) return tried
    const full = slack.devices.findIndex(isFull)
    const receiver = receiverOf(input, slack, parts)
    if (isFixed || full < 0 || receiver < 0) return undefined
    parts[full]!--
    parts[receiver]!++
  }
  return undefined
}

/** What the largest multiple of `step` up to `limit` gives that gives anything: where one does, all smaller ones would. */
const largest = <A>(
  limit: number,
  step: number,
  of: (value: number) => A | undefined,
): A | undefined => {
  let low = 0
  let high = Math.floor(limit / step)
  let found: A | undefined
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    const given = of(middle * step)
    if (given === undefined) {
      high = middle - 1
    } else {
      low = middle
      found = given
    }
  }
  return found
}

/** What to try after a candidate that did not fit: other shares, then fewer layers on devices, then a shorter context. */
const nextOf = (known: Known, minContextSize: number): Candidate | undefined => {
  const { input, candidate } = known
  const { contextSize } = candidate
  const isSame = (other: Candidate): boolean =>
    other.contextSize === contextSize &&
    unitsOf(other) === unitsOf(candidate) &&
    other.shares!.every((share, index) => share === candidate.shares![index])
  const spread = spreadShares(known, unitsOf(candidate), contextSize)
  if (spread !== undefined && !isSame(spread)) return spread
  if (input.gpuLayers === undefined) {
    const fewer = largest(unitsOf(candidate) - 1, 1, (count) =>
      spreadShares(known, count, contextSize),
    )
    if (fewer !== undefined) return fewer
  }
  const shorter = largest(contextSize - CONTEXT_STEP, CONTEXT_STEP, (size) =>
    spreadShares(known, unitsOf(candidate), size),
  )
  return shorter !== undefined && shorter.contextSize >= minContextSize ? shorter : undefined
}

/** `RPC0 lacks 2.00 GiB of 7.50 GiB; …`, of the candidate that was measured. */
const whereMissing = ({ input, candidate, measured }: Known) => {
  const slack = slackOf({ input, candidate, measured }, candidate)
  const rows = [
    ...input.devices.map(({ name, freeBytes }, index) => ({
      name,
      freeBytes,
      bytes: slack.devices[index]!,
    })),
    { name: "this host", freeBytes: input.host.freeBytes, bytes: slack.host },
  ].filter(({ bytes }) => isFull(bytes))
  return {
    missingBytes: sum(rows.map(({ bytes }) => -bytes)),
    where: rows
      .map(
        ({ name, freeBytes, bytes }) =>
          `${name} lacks ${formatNeededBytes(-bytes)} of ${formatNeededBytes(freeBytes - bytes)}`,
      )
      .join("; "),
  }
}

/** A shorter context that fits, as measured; estimates alone would promise too much. */
function* fittingContext(from: Known): Generator<Candidate, number | undefined, Measurement> {
  const { input, candidate } = from
  let known = from
  let limit = candidate.contextSize - CONTEXT_STEP
  for (let attempt = 0; attempt < MAX_ADVICE_MEASUREMENTS; attempt++) {
    const current = known
    const shorter = largest(limit, CONTEXT_STEP, (size) =>
      spreadShares(current, unitsOf(candidate), size),
    )
    if (shorter === undefined) return undefined
    const measured = yield shorter
    if (fits(input, shorter, measured)) return shorter.contextSize
    known = { input, candidate: shorter, measured }
    limit = shorter.contextSize - CONTEXT_STEP
  }
  return undefined
}

function* doesNotFit(known: Known): Generator<Candidate, PlanError, Measurement> {
  const { input, candidate } = known
  const { missingBytes, where } = whereMissing(known)
  const context = yield* fittingContext(known)
  const advice = [
    ...(context === undefined
      ? []
      : [`a context of ${context} tokens (--ctx-size ${context}) would fit`]),
    ...(input.tensorSplit !== undefined &&
    spreadShares(
      { ...known, input: { ...input, tensorSplit: undefined } },
      unitsOf(candidate),
      candidate.contextSize,
    ) !== undefined
      ? ["another --tensor-split would fit; without it devices that are full get less"]
      : []),
    "layers can be split more finely than tensors cut (--split-mode layer)",
  ]
  const text = advice.join("; or ")
  return new PlanError({
    reason: "does-not-fit",
    missingBytes: Math.ceil(missingBytes),
    detail: `The model does not fit with its tensors cut over ${input.devices.map(({ name }) => name).join(", ")}: ${formatNeededBytes(missingBytes)} of memory are missing (${where}). ${text.charAt(0).toUpperCase()}${text.slice(1)}.`,
  })
}

/** As `planSteps`, with every tensor cut over the devices. @throws {PlanError} */
export function* cutSteps(input: PlannerInput): Generator<Candidate, Plan, Measurement> {
  let candidate = firstOf(input)
  const minContextSize = input.minContextSize ?? input.contextSize
  for (let attempt = 1; ; attempt++) {
    const tried = measurable(input, candidate)
    const measured = yield tried
    if (tried === candidate && fits(input, candidate, measured)) {
      return { ...planOf(input, candidate, measured), leftOut: [] }
    }
    const known = { input, candidate: tried, measured }
    const next = attempt < MAX_MEASUREMENTS ? nextOf(known, minContextSize) : undefined
    if (next === undefined) throw yield* doesNotFit(known)
    candidate = next
  }
}
