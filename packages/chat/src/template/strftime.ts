/** Dates as Python's and C's `strftime` write them in the C locale: the codes that chat templates use. */

const months = [
  ..."January February March April May June July August September October November December".split(
    " ",
  ),
]
const days = [..."Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ")]

const pad = (value: number, width = 2): string => String(value).padStart(width, "0")

const dayOfYear = (date: Date): number =>
  Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) -
      Date.UTC(date.getFullYear(), 0, 1)) /
      86_400_000,
  ) + 1

const codes: Readonly<Record<string, (date: Date) => string>> = {
  a: (date) => days[date.getDay()]!.slice(0, 3),
  A: (date) => days[date.getDay()]!,
  b: (date) => months[date.getMonth()]!.slice(0, 3),
  B: (date) => months[date.getMonth()]!,
  d: (date) => pad(date.getDate()),
  e: (date) => String(date.getDate()).padStart(2, " "),
  F: (date) => strftime(date, "%Y-%m-%d"),
  H: (date) => pad(date.getHours()),
  I: (date) => pad(date.getHours() % 12 || 12),
  j: (date) => pad(dayOfYear(date), 3),
  m: (date) => pad(date.getMonth() + 1),
  M: (date) => pad(date.getMinutes()),
  p: (date) => (date.getHours() < 12 ? "AM" : "PM"),
  S: (date) => pad(date.getSeconds()),
  T: (date) => strftime(date, "%H:%M:%S"),
  y: (date) => pad(date.getFullYear() % 100),
  Y: (date) => String(date.getFullYear()),
  "%": () => "%",
}

/** `date` in local time; codes that are not known stay as they are. `%-d` is `%d` without leading zeros. */
export const strftime = (date: Date, format: string): string =>
  format.replace(/%(-?)([A-Za-z%])/g, (code, dash: string, letter: string) => {
    const text = codes[letter]?.(date)
    if (text === undefined) return code
    return dash === "-" ? text.replace(/^[0 ]+(?=.)/, "") : text
  })
