/** What flags say of guesses. */
import type { Cluster } from "@ggml-rpc/client"
import type { FlagValues } from "../flags/Flag.ts"
import type { speculationFlags } from "../flags/speculation.ts"

export const speculationOf = ({
  specType = [],
  specNgramSimpleSizeN: lookupCount,
  specNgramSimpleSizeM: draftCount,
}: FlagValues<typeof speculationFlags>): Pick<Cluster.PlanOptions, "speculation"> =>
  specType.includes("ngram-simple") ? { speculation: { ngram: { lookupCount, draftCount } } } : {}
