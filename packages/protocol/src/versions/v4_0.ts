import { ops96, ops97, ops98 } from "./numbering.ts"
import { older, type ProtocolSpec } from "./spec.ts"
import { v5_0 } from "./v5_0.ts"

/** ggml 06aab01f, 2026-07-17: no MEMSET_TENSOR. */
const v4_0_3 = older(v5_0, {
  version: { major: 4, minor: 0, patch: 3 },
  releases: "llama.cpp of July 2026",
  commands: { MEMSET_TENSOR: undefined },
})

/** ggml 13f4e9ff, 2026-07-11. */
const v4_0_2 = older(v4_0_3, {
  version: { major: 4, minor: 0, patch: 2 },
  releases: "llama.cpp of July 2026",
  numberings: [ops98],
})

/** ggml d962a305, 2026-06-09. Its first day's GATED_DELTA_NET had no snapshot count (390c2f40). */
const v4_0_1 = older(v4_0_2, {
  version: { major: 4, minor: 0, patch: 1 },
  releases: "llama.cpp of June and July 2026",
  numberings: [ops97],
})

/** ggml b17872cf, 2026-04-15: GATED_DELTA_NET has another state and takes its snapshot count from it. */
const v4_0_0 = older(v4_0_1, {
  version: { major: 4, minor: 0, patch: 0 },
  releases: "llama.cpp of April to June 2026",
  numberings: [ops96],
  features: { changedOps: ["GATED_DELTA_NET"] },
})

/** A new patch of 4.0 is a new operation in the list. */
export const v4_0: readonly [ProtocolSpec, ...ProtocolSpec[]] = [v4_0_3, v4_0_2, v4_0_1, v4_0_0]
