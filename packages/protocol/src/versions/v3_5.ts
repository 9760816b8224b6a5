import { fixed, lacking } from "../codec/payload.ts"
import { ABSENT_TENSOR } from "../codec/tensor.ts"
import { GetAllocSizeResponse, SourcelessAllocSizeRequest } from "./layouts/tensor.ts"
import { ops95 } from "./numbering.ts"
import { older } from "./spec.ts"
import { v3_6 } from "./v3_6.ts"

/** What is absent of GET_ALLOC_SIZE's sources before it had any. */
export const noSources = Array.from({ length: 10 }, () => ABSENT_TENSOR)

const v3_6_0 = v3_6[v3_6.length - 1]!

/** ggml 910f59e7, 2025-11-28: GET_ALLOC_SIZE without sources. */
export const v3_5 = older(v3_6_0, {
  version: { major: 3, minor: 5, patch: 0 },
  releases: "llama.cpp of November and December 2025",
  commands: {
    GET_ALLOC_SIZE: {
      request: lacking(fixed(SourcelessAllocSizeRequest), { srcs: noSources }),
      response: fixed(GetAllocSizeResponse),
    },
  },
  numberings: [ops95],
  features: {
    expandingOps: [],
    // The CPU's kernel learned other indices some time before 3.6.0, and takes any for 64 bits wide until then.
    sourceLimits: [...v3_6_0.features.sourceLimits, { op: "SET_ROWS", source: 1, type: "I64" }],
  },
})
