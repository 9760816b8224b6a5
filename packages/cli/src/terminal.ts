/**
 * The program's two streams: results on stdout, everything else on stderr. Node's own (`process.stdout`) are asked about terminals
 * alone: what they are made of takes Bun 12 ms to load.
 */
import { fstatSync } from "node:fs"

/** Whether this descriptor may be a terminal: a pipe and a file are not. */
const isDevice = (descriptor: number): boolean => {
  try {
    return fstatSync(descriptor).isCharacterDevice()
  } catch {
    return false
  }
}

/** Whether somebody types what is read. */
export const isStdinTerminal = (): boolean => isDevice(0) && (process.stdin.isTTY ?? false)

let pendingWrites = 0
let onDrained: (() => void) | undefined

export class Output {
  readonly #sink: Bun.FileSink
  readonly #terminal: NodeJS.WriteStream | undefined
  #onBroken: ((error: NodeJS.ErrnoException) => void) | undefined
  #isBroken = false

  constructor(file: Bun.BunFile, descriptor: number, stream: () => NodeJS.WriteStream) {
    this.#sink = file.writer()
    const terminal = isDevice(descriptor) ? stream() : undefined
    this.#terminal = terminal?.isTTY ? terminal : undefined
  }

  get isTTY(): boolean {
    return this.#terminal !== undefined
  }

  /** Characters of a terminal's line. */
  get columns(): number | undefined {
    return this.#terminal?.columns
  }

  /** It takes nothing any more. */
  get isBroken(): boolean {
    return this.#isBroken
  }

  write(text: string): void {
    if (this.#isBroken) return
    try {
      this.#follow(this.#sink.write(text))
      this.#follow(this.#sink.flush())
    } catch (error) {
      this.#break(error as NodeJS.ErrnoException)
    }
  }

  /** See {@link onBrokenOutput}. */
  onBroken(callback: (error: NodeJS.ErrnoException) => void): void {
    this.#onBroken = callback
  }

  /** Whoever reads is slower, where this is a promise: Bun keeps what was not taken. */
  #follow(bytes: number | Promise<number>): void {
    if (!(bytes instanceof Promise)) return
    pendingWrites++
    bytes
      .catch((error: NodeJS.ErrnoException) => this.#break(error))
      .finally(() => {
        pendingWrites--
        if (pendingWrites === 0) onDrained?.()
      })
  }

  #break(error: NodeJS.ErrnoException): void {
    if (this.#isBroken) return
    this.#isBroken = true
    this.#onBroken?.(error)
  }
}

export const stdout = new Output(Bun.stdout, 1, () => process.stdout)
export const stderr = new Output(Bun.stderr, 2, () => process.stderr)

/** Writes to stdout. */
export const print = (text: string): void => stdout.write(text)

/** Writes a line, or several, to stdout. */
export const printLine = (text: string): void => print(`${text}\n`)

/** Writes to stderr. */
export const note = (text: string): void => stderr.write(text)

/** Writes a line, or several, to stderr. */
export const noteLine = (text: string): void => note(`${text}\n`)

/** Waits until all output has left the process, or has nowhere to go. */
export const flush = (): Promise<void> =>
  pendingWrites === 0
    ? Promise.resolve()
    : new Promise((resolve) => {
        onDrained = resolve
      })

/**
 * Calls back, once, when stdout takes nothing any more: EPIPE where nobody reads it (`| head`), else such
 * as a full disk. A closed stderr is ignored.
 */
export const onBrokenOutput = (callback: (error: NodeJS.ErrnoException) => void): void =>
  stdout.onBroken(callback)

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
export const styleOf = (stream: Pick<Output, "isTTY">, environment = process.env): Style =>
  stream.isTTY && !environment.NO_COLOR && environment.TERM !== "dumb"
    ? { bold: sgr(1, 22), red: sgr(31, 39), dim: sgr(2, 22) }
    : { bold: plain, red: plain, dim: plain }

/** Characters of a line: a terminal's, or what COLUMNS says for a file or a pipe, which has no limit otherwise. */
export const columnsOf = (
  stream: Pick<Output, "isTTY" | "columns">,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): number => {
  const asked = /^[1-9]\d{0,4}$/.test(environment.COLUMNS ?? "") ? Number(environment.COLUMNS) : 0
  return stream.isTTY ? stream.columns || asked || 80 : asked || Number.POSITIVE_INFINITY
}
