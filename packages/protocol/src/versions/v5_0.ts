import { older } from "./spec.ts"
import { v5_1 } from "./v5_1.ts"

/** ggml 0e1747aa, 2026-07-29: a tensor's last four bytes are padding. */
export const v5_0 = older(v5_1, {
  version: { major: 5, minor: 0, patch: 0 },
  releases: "llama.cpp of July and August 2026",
  features: {
    useCount: false,
    // SSM_SCAN's snapshot count came within 5.0.0 (ggml 66d09fae); one snapshot is what there was before.
    limits: [
      ...v5_1.features.limits,
      { op: "SSM_SCAN", slot: 0, mask: 0xffff_ffff, min: 1, max: 1 },
    ],
    fills: [...v5_1.features.fills, { op: "SSM_SCAN", slot: 0, from: 0, to: 1 }],
  },
})
