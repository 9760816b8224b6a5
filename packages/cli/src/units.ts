/** Numbers for people. */

const units = ["B", "KiB", "MiB", "GiB", "TiB"] as const

/** Three digits: `1.27 GiB`, `849 MiB`, `512 B`. */
export const formatBytes = (bytes: number): string => {
  let value = bytes
  let unit = 0
  // 999.5 would be shown as 1000.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? Math.round(value) : digits(value)} ${units[unit]}`
}

/** Three significant digits of a number below 1024. */
const digits = (value: number): string =>
  value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)

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
  ms > 0 ? `${digits((count * 1000) / ms)} tokens/s` : "–"

export const formatCount = (count: number, noun: string): string =>
  `${count} ${noun}${count === 1 ? "" : "s"}`
