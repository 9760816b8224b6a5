/**
 * The program's two streams: results on stdout, everything else on stderr. Node's own (`process.stdout`) are asked about terminals
 * alone: what they are made of takes Bun 12 ms to load.
 */
import { fstatSync, writeSync } from "node:fs"

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

const encoder = new TextEncoder()

/** Another process that has the same pipe may have made it one that does not wait. */
const PIPE_FULL_MS = 1

/** Waits for who reads: what is written stays in order over both streams, and never takes more memory than it has. */
const writeAll = (descriptor: number, bytes: Uint8Array): void => {
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(descriptor, bytes, done)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error
      Bun.sleepSync(PIPE_FULL_MS)
    }
  }
}

export class Output {
  readonly #descriptor: number
  readonly #stream: () => NodeJS.WriteStream
  /** Undefined before somebody asks for it: to load what it is made of, a program that has an engine to start first does not wait. */
  #asked: { readonly terminal: NodeJS.WriteStream | undefined } | undefined
  #onBroken: ((error: NodeJS.ErrnoException) => void) | undefined
  #isBroken = false

  constructor(descriptor: number, stream: () => NodeJS.WriteStream) {
    this.#descriptor = descriptor
    this.#stream = stream
  }

  get #terminal(): NodeJS.WriteStream | undefined {
    if (this.#asked === undefined) {
      const stream = isDevice(this.#descriptor) ? this.#stream() : undefined
      this.#asked = { terminal: stream?.isTTY ? stream : undefined }
    }
    return this.#asked.terminal
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
      writeAll(this.#descriptor, encoder.encode(text))
    } catch (error) {
      this.#isBroken = true
      // Whoever writes is in the middle of something.
      queueMicrotask(() => this.#onBroken?.(error as NodeJS.ErrnoException))
    }
  }

  /** See {@link onBrokenOutput}. */
  onBroken(callback: (error: NodeJS.ErrnoException) => void): void {
    this.#onBroken = callback
  }
}

export const stdout = new Output(1, () => process.stdout)
export const stderr = new Output(2, () => process.stderr)

/** Writes to stdout. */
export const print = (text: string): void => stdout.write(text)

/** Writes a line, or several, to stdout. */
export const printLine = (text: string): void => print(`${text}\n`)

/** Writes to stderr. */
export const note = (text: string): void => stderr.write(text)

/** Writes a line, or several, to stderr. */
export const noteLine = (text: string): void => note(`${text}\n`)

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
