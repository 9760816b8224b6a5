/** The program's two streams: results on stdout, everything else on stderr. */

type Stream = NodeJS.WriteStream

let pendingWrites = 0
let onDrained: (() => void) | undefined
let onBroken: (() => void) | undefined

const write = (stream: Stream, text: string): void => {
  pendingWrites++
  // Counted one by one: only a write's own callback tells when its bytes have left the process.
  stream.write(text, () => {
    pendingWrites--
    if (pendingWrites === 0) onDrained?.()
  })
}

/** Writes to stdout. */
export const print = (text: string): void => write(process.stdout, text)

/** Writes a line, or several, to stdout. */
export const printLine = (text: string): void => print(`${text}\n`)

/** Writes to stderr. */
export const note = (text: string): void => write(process.stderr, text)

/** Writes a line, or several, to stderr. */
export const noteLine = (text: string): void => note(`${text}\n`)

/** Waits until all output has left the process, or has nowhere to go. */
export const flush = (): Promise<void> =>
  pendingWrites === 0
    ? Promise.resolve()
    : new Promise((resolve) => {
        onDrained = resolve
        onBroken = resolve
      })

/**
 * Calls back, once, when stdout takes nothing any more: EPIPE where nobody reads it (`| head`), else such
 * as a full disk. A closed stderr is ignored.
 */
export const onBrokenOutput = (callback: (error: NodeJS.ErrnoException) => void): void => {
  let isBroken = false
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (!isBroken) callback(error)
    isBroken = true
    onBroken?.()
  })
  process.stderr.on("error", () => onBroken?.())
}

export interface Style {
  readonly bold: (text: string) => string
  readonly red: (text: string) => string
  readonly dim: (text: string) => string
}

const sgr =
  (on: number, off: number) =>
  (text: string): string =>
    `\x1b[${on}m${text}\x1b[${off}m`

const plain = (text: string): string => text

/** Colours on a terminal, unless NO_COLOR (https://no-color.org) or TERM=dumb speak against it. */
export const styleOf = (stream: Pick<Stream, "isTTY">, environment = process.env): Style =>
  stream.isTTY && !environment.NO_COLOR && environment.TERM !== "dumb"
    ? { bold: sgr(1, 22), red: sgr(31, 39), dim: sgr(2, 22) }
    : { bold: plain, red: plain, dim: plain }

/** Characters of a line: a terminal's, or what COLUMNS says for a file or a pipe, which has no limit otherwise. */
export const columnsOf = (
  stream: Pick<Stream, "isTTY" | "columns">,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): number => {
  const asked = /^[1-9]\d{0,4}$/.test(environment.COLUMNS ?? "") ? Number(environment.COLUMNS) : 0
  return stream.isTTY ? stream.columns || asked || 80 : asked || Number.POSITIVE_INFINITY
}
