/** How an embedding is scaled, by llama-server's numbers: -1 not, 0 by the largest value, 1 by the sum, 2 Euclidean, above: that norm. */
export type Normalization = number

/** What 0 scales the largest value to (llama.cpp v0.5.0, common.cpp `common_embd_normalize`). */
const LARGEST = 32760

const normOf = (vector: Float32Array, kind: Normalization): number => {
  if (kind < 0) return 1
  if (kind === 0) {
    return vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / LARGEST
  }
  return vector.reduce((sum, value) => sum + Math.abs(value) ** kind, 0) ** (1 / kind)
}

/** An embedding of this length; one of zeros stays as it is. */
export const normalized = (vector: Float32Array, kind: Normalization): Float32Array => {
  const norm = normOf(vector, kind)
  return norm === 0 ? vector : vector.map((value) => value / norm)
}
