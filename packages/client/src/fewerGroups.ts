/** How many groups of slots a model is planned for, where nobody said: each has a cache of its own, which takes memory. */
import * as Effect from "effect/Effect"
import type { EngineContextOptions } from "./engine/messages.ts"
import { PlanError } from "./errors.ts"
import type { Plan } from "./planner/index.ts"

/** What counts of a plan here. */
export interface Planned {
  readonly plan: Pick<Plan, "contextSize" | "wantedContextSize"> & {
    readonly host: Pick<Plan["host"], "unitCount">
  }
  readonly context: Pick<EngineContextOptions, "groupCount">
}

/**
 * Plans for as many groups as there are stages; for one where caches of the others would make the context shorter, or keep layers
 * from the devices.
 */
export const orFewerGroups = <A extends Planned, E>(
  plan: (mostGroups: number) => Effect.Effect<A, E | PlanError>,
): Effect.Effect<A, E | PlanError> =>
  Effect.matchEffect(plan(Number.POSITIVE_INFINITY), {
    onFailure: (error) =>
      error instanceof PlanError && error.reason === "does-not-fit" ? plan(1) : Effect.fail(error),
    onSuccess: (most) =>
      most.context.groupCount === undefined || !isCramped(most)
        ? Effect.succeed(most)
        : Effect.match(plan(1), {
            onFailure: () => most,
            onSuccess: (one) => (isRoomier(one, most) ? one : most),
          }),
  })

const isCramped = ({ plan }: Planned): boolean =>
  plan.host.unitCount > 0 || plan.wantedContextSize !== undefined

const isRoomier = ({ plan: one }: Planned, { plan: other }: Planned): boolean =>
  one.contextSize === other.contextSize
    ? one.host.unitCount < other.host.unitCount
    : one.contextSize > other.contextSize
