import { lacking, withData } from "../codec/payload.ts"
import { UnflaggedSetTensorPrefix } from "./layouts/tensor.ts"
import { older } from "./spec.ts"
import { v7_0 } from "./v7_0.ts"

const ONE_F32 = 0x3f80_0000

/** llama.cpp v0.4.0: no word about caching, and DSV4_HC_PRE without scale and gate. */
export const v6_0 = older(v7_0, {
  version: { major: 6, minor: 0, patch: 0 },
  releases: "llama.cpp v0.4",
  commands: {
    SET_TENSOR: {
      request: lacking(withData(UnflaggedSetTensorPrefix), { cacheFlag: 0 }),
      response: null,
    },
  },
  features: {
    setTensorCacheFlag: false,
    // The 7.0.0 kernel multiplies by the scale, and allows DSV4_HC_POST without its fourth source.
    sourceLimits: [{ op: "DSV4_HC_POST", source: 3 }],
    limits: [
      { op: "DSV4_HC_PRE", slot: 0, mask: 0xffff_ffff, min: ONE_F32, max: ONE_F32 },
      { op: "DSV4_HC_PRE", slot: 1, mask: 0xffff_ffff, min: 0, max: 0 },
    ],
    fills: [{ op: "DSV4_HC_PRE", slot: 0, from: 0, to: ONE_F32 }],
  },
})
