/** How far two outputs of one model for the same tokens are apart. */

/** One output: rowCount × columnCount numbers, row after row. */
export interface Output {
  readonly rowCount: number
  readonly columnCount: number
  readonly values: Float32Array
}

export interface Comparison {
  readonly maxAbsDiff: number
  /**
   * Normalized mean squared error, Σ(a-b)² / Σa² with a the reference: the measure of llama.cpp's
   * tests (tests/test-llama-archs.cpp `nmse`, v0.5.0). Not a number when either output holds one.
   */
  readonly nmse: number
  /** Part of the rows whose largest value is in the same column: the next token of greedy decoding. */
  readonly top1Agreement: number
  /** Mean over rows of KL(reference ‖ other) of the probabilities that the logits mean, in nats. */
  readonly klDivergence: number
  /** Lowest cosine similarity of two rows. */
  readonly cosineSimilarity: number
}

/** @throws {RangeError} when the outputs have different shapes */
export const compareOutputs = (reference: Output, other: Output): Comparison => {
  const { rowCount, columnCount } = reference
  if (rowCount !== other.rowCount || columnCount !== other.columnCount) {
    throw new RangeError(
      `outputs of ${rowCount} × ${columnCount} and ${other.rowCount} × ${other.columnCount} cannot be compared`,
    )
  }
  let maxAbsDiff = 0
  let squaredDiffs = 0
  let squares = 0
  let agreeing = 0
  let divergence = 0
  let cosineSimilarity = 1
  for (let row = 0; row < rowCount; row++) {
    const a = reference.values.subarray(row * columnCount, (row + 1) * columnCount)
    const b = other.values.subarray(row * columnCount, (row + 1) * columnCount)
    for (let column = 0; column < columnCount; column++) {
      // Infinities that agree are no difference: models mask tokens with them.
      if (a[column] === b[column]) {
        if (Number.isFinite(a[column]!)) squares += a[column]! * a[column]!
        continue
      }
      const diff = a[column]! - b[column]!
      // Written so that a difference that is not a number stays visible.
      if (!(Math.abs(diff) <= maxAbsDiff)) maxAbsDiff = Math.abs(diff)
      squaredDiffs += diff * diff
      squares += a[column]! * a[column]!
    }
    if (indexOfLargest(a) === indexOfLargest(b)) agreeing++
    divergence += klDivergence(a, b)
    cosineSimilarity = Math.min(cosineSimilarity, cosine(a, b))
  }
  return {
    maxAbsDiff,
    nmse: squaredDiffs === 0 ? 0 : squaredDiffs / squares,
    top1Agreement: rowCount === 0 ? 1 : agreeing / rowCount,
    klDivergence: rowCount === 0 ? 0 : divergence / rowCount,
    cosineSimilarity,
  }
}

const indexOfLargest = (row: Float32Array): number => {
  let best = 0
  for (let column = 1; column < row.length; column++) if (row[column]! > row[best]!) best = column
  return best
}

/** log Σ exp(x), without overflow. */
const logSumExp = (row: Float32Array): number => {
  const largest = row[indexOfLargest(row)] ?? 0
  let sum = 0
  for (const value of row) sum += Math.exp(value - largest)
  return largest + Math.log(sum)
}

const klDivergence = (a: Float32Array, b: Float32Array): number => {
  const logA = logSumExp(a)
  const logB = logSumExp(b)
  let divergence = 0
  for (let column = 0; column < a.length; column++) {
    const probability = Math.exp(a[column]! - logA)
    if (probability === 0) continue
    divergence += probability * (a[column]! - logA - (b[column]! - logB))
  }
  // Rounding may leave a little less than nothing.
  return Math.max(0, divergence)
}

const cosine = (a: Float32Array, b: Float32Array): number => {
  let product = 0
  let squaresA = 0
  let squaresB = 0
  for (let column = 0; column < a.length; column++) {
    product += a[column]! * b[column]!
    squaresA += a[column]! * a[column]!
    squaresB += b[column]! * b[column]!
  }
  if (squaresA === 0 && squaresB === 0) return 1
  return product / Math.sqrt(squaresA * squaresB)
}

/**
 * Token ids spread over a vocabulary, always the same: steps of the golden ratio, so that neighbours
 * in the text are far apart in the vocabulary.
 */
export const spreadTokens = (count: number, vocabSize: number): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, index) =>
    Math.min(vocabSize - 1, Math.floor((((index + 1) * 0.6180339887498949) % 1) * vocabSize)),
  )
