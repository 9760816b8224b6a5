import type { ProtocolSpec } from "../version.ts"
import { commands } from "./commands.ts"
import { gluOps, ops, types, unaryOps } from "./enums.ts"

/** Protocol 7.0.0: llama.cpp v0.5.0. */
export const V7_0_0: ProtocolSpec = {
  version: { major: 7, minor: 0, patch: 0 },
  commands,
  ops,
  unaryOps,
  gluOps,
  types,
  features: {
    helloCaps: true,
    deviceField: true,
    graphRecompute: true,
    graphStatus: false,
    computeFlag: true,
    useCount: true,
    setTensorCacheFlag: true,
    hashThresholdBytes: 10 * 1024 * 1024,
    quantizedRowMultiple: 512,
    expandingOps: ["FLASH_ATTN_EXT", "MUL_MAT", "MUL_MAT_ID", "CUMSUM", "ARGSORT", "TOP_K"],
  },
}
