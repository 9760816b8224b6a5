/** Amounts of memory as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const

const MEBIBYTE = 2 ** 20
const GIBIBYTE = 2 ** 30

/** Three digits: `1.27 GiB`, `849 MiB`, `512 B`. */
export const formatBytes = (bytes: number): string => {
  let value = bytes
  let unit = 0
  // 999.5 would be shown as 1000.
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? Math.round(value) : threeDigits(value)} ${UNITS[unit]}`
}

/** Three significant digits of a number below 1024: `1.27`, `84.9`, `849`. */
export const threeDigits = (value: number): string =>
  value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)

/** Whole MiB, as upstream's server writes what there is: `1024 MiB`, rounded down. */
export const formatMebibytes = (bytes: number): string => `${Math.floor(bytes / MEBIBYTE)} MiB`

/** Whole MiB of what is needed, so rounded up: `3 MiB`. */
export const formatNeededMebibytes = (bytes: number): string => `${Math.ceil(bytes / MEBIBYTE)} MiB`

/** What is needed or missing: `2.00 GiB`, `3 MiB`; never 0 where there is something. */
export const formatNeededBytes = (bytes: number): string =>
  bytes >= GIBIBYTE ? `${(bytes / GIBIBYTE).toFixed(2)} GiB` : formatNeededMebibytes(bytes)
