import type { Loaded } from "../../Loaded.ts"
import type { SlotsHost } from "../Slots.ts"
import type { Drafter } from "./Drafter.ts"
import { DraftModel } from "./DraftModel.ts"
import { NgramDrafter } from "./NgramDrafter.ts"

/** In the order in which they are asked: what is looked up costs nothing. */
export const draftersOf = (
  { model, options: { speculation = {} } }: Loaded,
  draft: Loaded | undefined,
  { failIfLost }: SlotsHost,
): ReadonlyArray<Drafter> => [
  ...(speculation.ngram === undefined ? [] : [new NgramDrafter(speculation.ngram)]),
  ...(speculation.draft === undefined || draft === undefined
    ? []
    : [new DraftModel(draft, speculation.draft, model.info.vocabSize, failIfLost)]),
]
