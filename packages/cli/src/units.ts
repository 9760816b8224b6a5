/** Times, rates and counts for people. */
import { threeDigits } from "@ggml-rpc/native/bindings"

/** `0.05 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`. */
export const formatSeconds = (seconds: number): string => {
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`
  return seconds < 99.95 ? `${seconds.toFixed(1)} s` : minutesOf(Math.round(seconds))
}

const minutesOf = (seconds: number): string => {
  const minutes = Math.floor(seconds / 60)
  return minutes < 60
    ? `${minutes} min ${seconds % 60} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** `42 s`, `1 min 15 s`, for a time that is only estimated. */
export const formatEta = (seconds: number): string => {
  const whole = Math.ceil(seconds)
  return whole < 60 ? `${whole} s` : minutesOf(whole)
}

/** `240.1 tokens/s`; nothing sensible where no time passed. */
export const formatRate = (count: number, ms: number): string =>
  ms > 0 ? `${threeDigits((count * 1000) / ms)} tokens/s` : "–"

export const formatCount = (count: number, noun: string): string =>
  `${count} ${noun}${count === 1 ? "" : "s"}`
