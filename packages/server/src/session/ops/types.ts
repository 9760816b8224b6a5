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

/** Types that are computed with, element by element. */
export const floats: readonly TypeName[] = ["F32", "F16", "BF16"]

/** Types whose rows are blocks. */
const quantized = types.filter(({ blockSize }) => blockSize > 1).map(({ name }) => name)

const without = (gone: readonly TypeName[]): readonly TypeName[] =>
  quantized.filter((name) => !gone.includes(name))

/** What activations become for a product, and nothing else: there is no way back. */
const ofActivations: readonly TypeName[] = ["Q8_1", "Q8_K"]

/** Quantized types that can be read: `to_float` of `ggml_type_traits`, which is called without looking. */
export const readable: readonly TypeName[] = without(ofActivations)

/** Quantized types that can be written: `from_float` of `type_traits_cpu`. The others need a matrix of importance. */
export const writable: readonly TypeName[] = without([
  "IQ2_XXS",
  "IQ2_XS",
  "IQ3_XXS",
  "IQ1_S",
  "IQ3_S",
  "IQ2_S",
  "IQ1_M",
])

export const f16OrF32: readonly TypeName[] = ["F16", "F32"]

/** What is multiplied with floats, and turned into them: `vec_dot` of `type_traits_cpu`, which is called without looking. */
export const factors: readonly TypeName[] = [...floats, ...readable]

const multipliedWith = {
  Q8_0: ["Q1_0", "Q2_0", "Q4_0", "Q5_0", "Q8_0", "MXFP4", "NVFP4", "IQ4_NL"],
  Q8_1: ["Q4_1", "Q5_1"],
} as const

/** By type id of a product's first factor: what the second one is, or becomes; `vec_dot_type`. */
export const factorType: Uint8Array = new Uint8Array(64)
for (const name of factors) {
  const small = Object.entries(multipliedWith).find(([, names]) =>
    (names as readonly TypeName[]).includes(name),
  )
  const isPlain = floats.includes(name)
  factorType[loadedTypeId(name)] = loadedTypeId(isPlain ? name : (small?.[0] ?? "Q8_K"))
}

/** Membership in a list of types, by id. */
export const among = (names: readonly TypeName[]): Uint8Array => {
  const members = new Uint8Array(64)
  for (const name of names) members[loadedTypeId(name)] = 1
  return members
}
