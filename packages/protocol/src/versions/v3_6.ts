import { empty, fixed, lacking } from "../codec/payload.ts"
import { noConnCaps, VersionResponse } from "./layouts/hello.ts"
import { ops95, ops96WithoutNvfp4 } from "./numbering.ts"
import { older, type ProtocolSpec } from "./spec.ts"
import { v4_0 } from "./v4_0.ts"

/** ggml ffd9c96c, 2026-03-10: HELLO asks with nothing, and is answered with the version alone. */
const v3_6_1 = older(v4_0[v4_0.length - 1]!, {
  version: { major: 3, minor: 6, patch: 1 },
  releases: "llama.cpp of March and April 2026",
  commands: {
    HELLO: {
      request: lacking(empty, { connCaps: noConnCaps() }),
      response: lacking(fixed(VersionResponse), { extension: 0, connCaps: noConnCaps() }),
    },
  },
  numberings: [ops96WithoutNvfp4],
  features: { helloCaps: false },
})

/** ggml 877b5696, 2025-12-05. The flag of nodes that are to be computed came within it (daa2d466). */
const v3_6_0 = older(v3_6_1, {
  version: { major: 3, minor: 6, patch: 0 },
  releases: "llama.cpp of December 2025 to March 2026",
  numberings: [ops95, ops96WithoutNvfp4],
  features: {
    computeFlag: false,
    // Masks that are not padded came within 3.6.0 (ggml 4767bda1), and circular padding (fba011ed).
    narrowerOps: ["FLASH_ATTN_EXT"],
    limits: [...v3_6_1.features.limits, { op: "PAD", slot: 8, mask: 0xffff_ffff, min: 0, max: 0 }],
  },
})

export const v3_6: readonly [ProtocolSpec, ...ProtocolSpec[]] = [v3_6_1, v3_6_0]
