import type { chatFlags } from "../flags/chat.ts"
import type { FlagValues } from "../flags/Flag.ts"

export type AffixValues = Pick<
  FlagValues<typeof chatFlags>,
  "inPrefix" | "inSuffix" | "inPrefixBos"
>

/** Whether messages stand between two texts, instead of in a template. */
export const hasAffixes = ({ inPrefix, inSuffix, inPrefixBos }: AffixValues): boolean =>
  inPrefix !== undefined || inSuffix !== undefined || inPrefixBos
