/** Numbers about repeated measurements. */

export interface Summary {
  readonly count: number
  readonly median: number
  readonly min: number
  readonly max: number
}

/** The middle value; of an even count, the mean of the two middle ones. */
export const median = (values: readonly number[]): number => {
  if (values.length === 0) throw new RangeError("median of no values")
  const sorted = values.toSorted((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)]!
  return sorted.length % 2 === 1 ? upper : (sorted[sorted.length / 2 - 1]! + upper) / 2
}

export const summarize = (values: readonly number[]): Summary => ({
  count: values.length,
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
})

/** How many times faster `ours` is: the quotient of the medians of two durations, above 1 when faster. */
export const speedup = (upstream: Summary, ours: Summary): number => upstream.median / ours.median

/**
 * The same from pairs measured one after the other: the median of the quotients. What slows a whole
 * stretch of a run down, such as another program, falls out of it.
 */
export const pairedSpeedup = (upstream: readonly number[], ours: readonly number[]): number => {
  const count = Math.min(upstream.length, ours.length)
  return median(Array.from({ length: count }, (_, index) => upstream[index]! / ours[index]!))
}
