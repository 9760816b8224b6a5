import { acknowledgement, fixed } from "../codec/payload.ts"
import { BufferClearRequest, BufferRequest } from "./layouts/buffer.ts"
import { InitTensorRequest, MemsetTensorRequest } from "./layouts/tensor.ts"
import { ops101WithoutClamp } from "./numbering.ts"
import { older } from "./spec.ts"
import { v6_0 } from "./v6_0.ts"

/** ggml f16a1a2c, 2026-08-18: an empty answer to what is silent today. */
export const v5_1 = older(v6_0, {
  version: { major: 5, minor: 1, patch: 0 },
  releases: "llama.cpp of August 2026",
  commands: {
    FREE_BUFFER: { request: fixed(BufferRequest), response: acknowledgement },
    BUFFER_CLEAR: { request: fixed(BufferClearRequest), response: acknowledgement },
    INIT_TENSOR: { request: fixed(InitTensorRequest), response: acknowledgement },
    MEMSET_TENSOR: { request: fixed(MemsetTensorRequest), response: acknowledgement },
  },
  numberings: [ops101WithoutClamp],
  features: {
    expandingOps: ["FLASH_ATTN_EXT", "MUL_MAT_ID"],
    // ROPE's offset came within 5.1.0 (ggml aa9d2226): not every build has it.
    limits: [
      ...v6_0.features.limits,
      { op: "ROPE", slot: 15, mask: 0xffff_ffff, min: 0, max: 0 },
      { op: "ROPE_BACK", slot: 15, mask: 0xffff_ffff, min: 0, max: 0 },
    ],
  },
})
