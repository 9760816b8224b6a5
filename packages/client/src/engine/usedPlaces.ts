import type { PlacedModel } from "./messages.ts"

/** Which of a placement's devices get something of the model, by their places in it: layers, or tensors that are told to go there. */
export const usedPlaces = ({
  placement: { devices, unitCounts },
  model: { overrides = [] },
}: Pick<PlacedModel, "placement" | "model">): ReadonlyArray<number> =>
  unitCounts.flatMap((count, at) =>
    count > 0 || overrides.some(({ device }) => device === devices[at]) ? [at] : [],
  )
