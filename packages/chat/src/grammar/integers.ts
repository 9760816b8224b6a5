/** Integers of a range, digit by digit. */

/** 15 digits: as many as every program's numbers hold. */
const LIMIT = 999_999_999_999_999

/** GBNF of the integers from `min` to `max`, both included, written without leading zeros. */
export const integersBetween = (min: number, max: number): string => {
  const [low, high] = [Math.max(min, -LIMIT), Math.min(max, LIMIT)]
  const negative =
    low < 0 ? [`"-" (${naturals(BigInt(Math.max(1, -high)), BigInt(-low)).join(" | ")})`] : []
  const positive = high >= 0 ? naturals(BigInt(Math.max(0, low)), BigInt(high)) : []
  return [...negative, ...positive].join(" | ")
}

/** Alternatives, each of numbers of one length. */
const naturals = (low: bigint, high: bigint): ReadonlyArray<string> => {
  const alternatives: string[] = []
  for (let from = low; from <= high; ) {
    const last = 10n ** BigInt(String(from).length) - 1n
    const to = last < high ? last : high
    alternatives.push(sameLength(String(from), String(to)))
    from = to + 1n
  }
  return alternatives
}

/** Numbers between two of the same length, by their first digit: that of the lowest, those between, that of the highest. */
const sameLength = (low: string, high: string): string => {
  if (low.length === 0) return '""'
  const [first, last] = [Number(low[0]), Number(high[0])]
  const rest = low.length - 1
  const [zeros, nines] = ["0".repeat(rest), "9".repeat(rest)]
  if (first === last) return joined(`[${first}]`, sameLength(low.slice(1), high.slice(1)))
  const isLowFull = low.slice(1) === zeros
  const isHighFull = high.slice(1) === nines
  const [from, to] = [isLowFull ? first : first + 1, isHighFull ? last : last - 1]
  const alternatives = [
    ...(isLowFull ? [] : [joined(`[${first}]`, sameLength(low.slice(1), nines))]),
    ...(from <= to ? [joined(`[${from}-${to}]`, rest === 0 ? '""' : `[0-9]{${rest}}`)] : []),
    ...(isHighFull ? [] : [joined(`[${last}]`, sameLength(zeros, high.slice(1)))]),
  ]
  return alternatives.length === 1 ? alternatives[0]! : `(${alternatives.join(" | ")})`
}

const joined = (first: string, rest: string): string => (rest === '""' ? first : `${first} ${rest}`)
