/**
 * The stages that a batch goes through when a model's layers lie on several servers. One stage computes at a time for one batch:
 * so that all of them compute, there have to be several batches, of groups of slots or of a prompt.
 */
import type { EngineContextOptions } from "./engine/messages.ts"
import { PlanError } from "./errors.ts"
import type { Candidate } from "./planner/index.ts"
import { sum } from "./planner/types.ts"

/** What computes while others do: each server, however many devices it has, each device of this host, and its CPU. */
export const stageCountOf = (
  /** Where each device is: its server, or `local`. */
  places: ReadonlyArray<string>,
  unitCounts: ReadonlyArray<number>,
  unitCount: number,
): number => {
  const used = places.filter((_, index) => unitCounts[index]! > 0)
  const servers = used.filter((place) => place !== "local")
  const hasHost = sum(unitCounts) < unitCount
  return new Set(servers).size + (used.length - servers.length) + (hasHost ? 1 : 0)
}

/** What there is of stages in a context. */
export interface PipelineOptions {
  readonly context: EngineContextOptions
  readonly places: ReadonlyArray<string>
  /** Blocks and the output layer. */
  readonly unitCount: number
  /** Groups, and tokens of a micro-batch, that were asked for. */
  readonly groups: number | undefined
  readonly ubatchSize: number | undefined
}

/**
 * Tokens of a micro-batch where there are several stages: the first one is at the next micro-batch while the second one computes
 * this, so a prompt is to have many. Fewer tokens each would cost more than the stages gain; see docs/performance.md.
 */
const PIPELINED_UBATCH_SIZE = 128

/** Text that comes at once is one micro-batch, as some models want it. */
const ubatchOf = (
  { context, ubatchSize }: PipelineOptions,
  stageCount: number,
): Partial<EngineContextOptions> =>
  stageCount < 2 || ubatchSize !== undefined || context.wholeBatch
    ? {}
    : {
        ubatchSize: Math.min(context.ubatchSize, PIPELINED_UBATCH_SIZE),
        promptStepSize: context.ubatchSize,
      }

/** The context of a candidate, with at most so many groups unless a count was asked for. */
export const pipelinedContext = (
  options: PipelineOptions,
  { unitCounts, contextSize, shares }: Candidate,
  mostGroups: number,
): EngineContextOptions => {
  const { context, places, unitCount, groups } = options
  // Devices that each have a part of every tensor compute at the same time.
  const stageCount = shares === undefined ? stageCountOf(places, unitCounts, unitCount) : 1
  const groupCount = groups ?? Math.min(context.slotCount ?? 1, stageCount, mostGroups)
  return {
    ...{ ...context, contextSize },
    ...ubatchOf(options, stageCount),
    ...(groupCount > 1 && { groupCount }),
  }
}

/** @throws {PlanError} for groups that some slots would be missing for */
export const checkGroups = (groups: number | undefined, slotCount: number): void => {
  if (groups === undefined) return
  if (Number.isInteger(groups) && groups >= 1 && groups <= slotCount) return
  throw new PlanError({
    reason: "slots",
    detail: `${groups} groups cannot share ${slotCount === 1 ? "one slot" : `${slotCount} slots`}: give a whole number from 1 to ${slotCount}, or more slots.`,
  })
}
