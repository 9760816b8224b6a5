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

export const f16OrF32: readonly TypeName[] = ["F16", "F32"]

/** What kernels for CPUs multiply with floats, and turn into floats (`vec_dot` in ggml-cpu.c, `to_float` in ggml.c). */
export const factors = [
  ...(["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] as const),
  ...(["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"] as const),
  ...(["MXFP4", "NVFP4", "Q1_0", "Q2_0"] as const),
  ...(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"] as const),
  ...(["IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"] as const),
] satisfies readonly TypeName[]
