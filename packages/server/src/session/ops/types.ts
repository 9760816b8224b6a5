/** The types that rules name, as ids of the loaded ggml. */
import { loadedTypeId } from "../spoken.ts"

export const F32 = loadedTypeId("F32")
export const F16 = loadedTypeId("F16")
export const BF16 = loadedTypeId("BF16")
export const I32 = loadedTypeId("I32")
export const I64 = loadedTypeId("I64")
