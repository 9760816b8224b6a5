import { canHaveHoles, writeWithHole } from "./FileSource.ts"
import { integerOf } from "./metadata.ts"
import type { GgufFile, GgufValue } from "./types.ts"
import { encodeOutline, type GgufValueToWrite } from "./write.ts"

const TOKENS = "tokenizer.ggml.tokens"

/**
 * Writes a file in which libllama finds the same tensors and hyperparameters, without a vocabulary, and holes for weights: to
 * measure what a model takes on devices. libllama reads a vocabulary of 32 thousand tokens for 40 ms, one of 256 thousand for
 * half a second, and needs of it no more for that than its size.
 *
 * @returns whether it did: not for a vocabulary of up to 1024 tokens, which costs nothing, nor where this may not be the same, or
 *   where holes would take room on the disk (then a small file is left)
 * @throws {GgufError} when the file cannot be written
 */
export const saveGgufOutline = (gguf: GgufFile, path: string): boolean => {
  const metadata = withoutVocabulary(gguf)
  if (metadata === undefined) return false
  const outline = encodeOutline({
    metadata,
    tensors: gguf.tensors.map(({ name, typeName, ne, dimensionCount }) => ({
      ...{ name, type: typeName, ne: ne.slice(0, Math.max(1, dimensionCount)) },
    })),
  })
  if (outline === undefined || !canHaveHoles(path)) return false
  writeWithHole(path, outline.header, outline.fileBytes)
  return true
}

type Entry = readonly [key: string, value: GgufValueToWrite]

/** Undefined where something long is no vocabulary's, or the vocabulary's size is in doubt. */
const withoutVocabulary = ({ metadata }: GgufFile): readonly Entry[] | undefined => {
  const tokens = metadata.get(TOKENS)
  const architecture = metadata.get("general.architecture")
  if (tokens?.type !== "array" || tokens.values !== undefined || architecture?.type !== "string") {
    return undefined
  }
  const sizeKey = `${architecture.value}.vocab_size`
  const size = integerOf(metadata.get(sizeKey))
  if (metadata.has(sizeKey) && size !== tokens.length) return undefined
  const kept = new Map<string, GgufValueToWrite>()
  for (const [key, value] of metadata) {
    if (value.type === "array" && key.startsWith("tokenizer.")) continue
    if (!isWritable(value)) return undefined
    kept.set(key, value)
  }
  // Of the file that this one is not: tensors lie otherwise here, and in one part.
  for (const key of ["general.alignment", "split.no", "split.count", "split.tensors.count"]) {
    kept.delete(key)
  }
  kept.set("tokenizer.ggml.model", { type: "string", value: "no_vocab" })
  kept.set(sizeKey, { type: "uint32", value: tokens.length })
  return [...kept]
}

const isWritable = (value: GgufValue): value is GgufValue & GgufValueToWrite =>
  value.type !== "array" || value.values !== undefined
