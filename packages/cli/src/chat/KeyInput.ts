/**
 * A terminal's keys on their way to the line editor. Pasted text comes between marks (bracketed paste) and becomes one
 * word that stands for its lines; while an answer is written Ctrl-C is told at once, and all else waits for the next line.
 */
import { PassThrough } from "node:stream"
import type { ReadStream } from "node:tty"

const PASTE = { on: "\x1b[?2004h", off: "\x1b[?2004l", begin: "\x1b[200~", end: "\x1b[201~" }
const CTRL_C = "\x03"

export class KeyInput {
  /** What node:readline reads. */
  readonly stream: PassThrough & { isTTY: boolean; setRawMode: (isRaw: boolean) => unknown }
  readonly #terminal: ReadStream
  readonly #write: (text: string) => void
  readonly #pastes: string[] = []
  /** What has come of a paste; undefined: none has begun. */
  #paste: string | undefined
  /** Keys that nobody reads yet, or the beginning of a mark. */
  #held = ""
  /** Whether a line is being read; it ends with its Return, and what follows is for the next. */
  #isReading = false
  #onInterrupt: (() => void) | undefined

  /** @param write to the terminal */
  constructor(terminal: ReadStream, write: (text: string) => void) {
    this.#terminal = terminal
    this.#write = write
    this.stream = Object.assign(new PassThrough(), {
      isTTY: true,
      setRawMode: (isRaw: boolean) => terminal.setRawMode(isRaw),
    })
  }

  /** Takes the terminal's keys, as long as a line or an answer takes. */
  open(): void {
    this.#terminal.setEncoding("utf8")
    this.#terminal.on("data", this.#onData)
    this.#terminal.on("end", this.#onEnd)
    this.#terminal.resume()
    this.#terminal.setRawMode(true)
    this.#write(PASTE.on)
  }

  /** Leaves the terminal as it was. */
  close(): void {
    this.#write(PASTE.off)
    this.#terminal.setRawMode(false)
    this.#terminal.off("data", this.#onData)
    this.#terminal.off("end", this.#onEnd)
    this.#terminal.pause()
  }

  /** An answer begins: `onInterrupt` is called for each Ctrl-C until `read`. */
  hold(onInterrupt: () => void): void {
    this.#onInterrupt = onInterrupt
  }

  /** The editor reads a line, first what was typed before. */
  read(): void {
    this.#onInterrupt = undefined
    this.#isReading = true
    const held = this.#held
    this.#held = ""
    this.#pass(held)
  }

  /** A line with what was pasted into it. */
  expanded(line: string): string {
    return line.replace(
      /\[pasted (\d+): \d+ lines\]/g,
      (mark, number) => this.#pastes[Number(number) - 1] ?? mark,
    )
  }

  readonly #onData = (data: string | Buffer): void => {
    const onInterrupt = this.#onInterrupt
    const pieces = onInterrupt === undefined ? [String(data)] : String(data).split(CTRL_C)
    for (const _ of pieces.slice(1)) onInterrupt?.()
    this.#pass(pieces.join(""))
  }

  readonly #onEnd = (): void => {
    this.stream.end()
  }

  #pass(given: string): void {
    let text = this.#held + given
    this.#held = ""
    while (this.#isReading && text !== "") {
      text = this.#paste === undefined ? this.#passKeys(text) : this.#passPaste(text)
      if (text.length < PASTE.begin.length && PASTE.begin.startsWith(text)) break
    }
    this.#held = text
  }

  /** Gives keys to the editor, up to a Return or a paste; what is left. */
  #passKeys(text: string): string {
    const begin = text.indexOf(PASTE.begin)
    const keys = begin < 0 ? text.length - heldBack(text, PASTE.begin) : begin
    const enter = text.slice(0, keys).search(/[\r\n]/)
    const length = enter < 0 ? keys : enter + 1
    if (enter >= 0) this.#isReading = false
    if (length > 0) this.stream.write(text.slice(0, length))
    if (enter >= 0 || begin < 0) return text.slice(length)
    this.#paste = ""
    return text.slice(begin + PASTE.begin.length)
  }

  #passPaste(text: string): string {
    const whole = this.#paste + text
    const end = whole.indexOf(PASTE.end)
    this.#paste = end < 0 ? whole : undefined
    if (end < 0) return ""
    this.#insert(whole.slice(0, end))
    return whole.slice(end + PASTE.end.length)
  }

  #insert(pasted: string): void {
    const text = pasted.replace(/\r\n?/g, "\n")
    const lines = text.replace(/\n$/, "").split("\n")
    if (lines.length === 1) {
      // Tabs and control characters would be keys of the editor.
      this.stream.write(lines[0]!.replace(/\t/g, "  ").replace(/\p{Cc}/gu, ""))
      return
    }
    this.#pastes.push(text)
    this.stream.write(`[pasted ${this.#pastes.length}: ${lines.length} lines]`)
  }
}

/** How much of the end of `text` may be the beginning of a mark; the Escape key alone is a key. */
const heldBack = (text: string, mark: string): number => {
  for (let length = Math.min(text.length, mark.length - 1); length > 1; length--) {
    if (mark.startsWith(text.slice(-length))) return length
  }
  return 0
}
