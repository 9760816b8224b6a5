/** Embeddings as text, in llama-embedding's formats. */
import type { CommandValues } from "./flags/commands.ts"

export type EmbeddingFormat = CommandValues<"embed">["format"]

const DIGITS = 7

const numbers = (vector: Float32Array): ReadonlyArray<number> =>
  Array.from(vector, (value) => Number(value.toFixed(DIGITS)))

/** From -1 to 1; 0 where one has no direction. */
export const cosine = (a: Float32Array, b: Float32Array): number => {
  let [product, lengthA, lengthB] = [0, 0, 0]
  for (let at = 0; at < a.length; at++) {
    product += a[at]! * b[at]!
    lengthA += a[at]! ** 2
    lengthB += b[at]! ** 2
  }
  return lengthA === 0 || lengthB === 0 ? 0 : product / Math.sqrt(lengthA * lengthB)
}

const similarities = (vectors: ReadonlyArray<Float32Array>): ReadonlyArray<ReadonlyArray<number>> =>
  vectors.map((a) => vectors.map((b) => Number(cosine(a, b).toFixed(4))))

const asText = (vectors: ReadonlyArray<Float32Array>): string => {
  const lines = vectors.map((vector, index) => `embedding ${index}: ${numbers(vector).join(" ")}`)
  if (vectors.length === 1) return lines.join("\n")
  const rows = similarities(vectors).map((row) => row.map((value) => value.toFixed(2).padStart(5)))
  return [...lines, "", "cosine similarities:", ...rows.map((row) => row.join(" "))].join("\n")
}

const asJson = (vectors: ReadonlyArray<Float32Array>) => ({
  object: "list",
  data: vectors.map((vector, index) => ({
    object: "embedding",
    index,
    embedding: numbers(vector),
  })),
})

const formats: {
  readonly [F in EmbeddingFormat]: (vectors: ReadonlyArray<Float32Array>) => string
} = {
  text: asText,
  array: (vectors) => JSON.stringify(vectors.map(numbers)),
  json: (vectors) => JSON.stringify(asJson(vectors)),
  "json+": (vectors) =>
    JSON.stringify({ ...asJson(vectors), cosineSimilarity: similarities(vectors) }),
  raw: (vectors) => vectors.map((vector) => numbers(vector).join(" ")).join("\n"),
}

export const formatEmbeddings = (
  vectors: ReadonlyArray<Float32Array>,
  format: EmbeddingFormat,
): string => formats[format](vectors)
