/** The types that rules name: ids of the loaded ggml, and lists by name. */
import { type TypeName, types } from "@ggml-rpc/protocol"
import { loadedTypeId } from "../spoken.ts"

export const F32 = loadedTypeId("F32")
export const F16 = loadedTypeId("F16")
export const BF16 = loadedTypeId("BF16")
export const I32 = loadedTypeId("I32")
export const I64 = loadedTypeId("I64")

/** Any type of ggml. */
export const allTypes: readonly TypeName[] = types.map(({ name }) => name)

/** Types whose rows are blocks. */
export const quantized: readonly TypeName[] = types
  .filter(({ blockSize }) => blockSize > 1)
  .map(({ name }) => name)
