import { GraphFormat } from "../codec/graph.ts"
import { fixed } from "../codec/payload.ts"
import { GraphStatusResponse } from "./layouts/device.ts"
import { ops90With16Unary, ops90With20Unary, ops94, ops95 } from "./numbering.ts"
import { older } from "./spec.ts"
import { v3_5 } from "./v3_5.ts"

/** ggml b0813b92, 2025-10-04: GRAPH_COMPUTE tells its status, and no graph is kept. */
export const v3_0 = older(v3_5, {
  version: { major: 3, minor: 0, patch: 0 },
  releases: "llama.cpp of October and November 2025",
  commands: {
    GRAPH_COMPUTE: {
      request: new GraphFormat({ hasDevice: true, hasUid: false }),
      response: fixed(GraphStatusResponse),
    },
    GRAPH_RECOMPUTE: undefined,
  },
  numberings: [ops90With16Unary, ops90With20Unary, ops94, ops95],
  features: {
    storedGraphs: "none",
    graphStatus: true,
    // Antialiasing (3.5.0), bicubic interpolation and interleaved multi-dimensional ROPE (both within 3.0.0).
    limits: [
      ...v3_5.features.limits,
      { op: "UPSCALE", slot: 0, mask: 0x2ff, min: 0, max: 1 },
      { op: "ROPE", slot: 2, mask: 32, min: 0, max: 0 },
      { op: "ROPE_BACK", slot: 2, mask: 32, min: 0, max: 0 },
    ],
  },
})
