/** A longer line of a library is cut: nobody reads more of it, and a session's client may cause it. */
const MAX_LINE_BYTES = 16 * 1024

const NEWLINE = 10
const BRACE = "{".charCodeAt(0)

const noBytes = new Uint8Array(0)

export interface OutputListener<Message extends object> {
  /** A message, and the bytes that followed it: an array of its own, empty when it announced none. */
  readonly onMessage: (message: Message, bytes: Uint8Array) => void
  /** A line that is no message, without its end. */
  readonly onLine: (line: string) => void
}

/**
 * Takes what a process writes apart, as it comes. A line that is a JSON object is a message, and its number
 * `bytes`, if it has one, says how many raw bytes follow the line. Any other line is one of a library or a driver,
 * and is cut at 16 KiB.
 */
export class OutputReader<Message extends object> {
  readonly #listener: OutputListener<Message>
  readonly #maxMessageBytes: number
  readonly #decoder = new TextDecoder()
  /** Of a line that has not ended; together `#heldBytes` long. */
  #held: Uint8Array[] = []
  #heldBytes = 0
  /** More of that line came than is kept. */
  #isCut = false
  /** The message whose bytes are awaited, and those that came. */
  #awaiting: { readonly message: Message; readonly bytes: Uint8Array } | undefined
  #filledBytes = 0

  /** A message that is longer than `maxMessageBytes`, or is followed by more, is a line like others. */
  constructor(listener: OutputListener<Message>, maxMessageBytes: number) {
    this.#listener = listener
    this.#maxMessageBytes = maxMessageBytes
  }

  /** The chunk must not change afterwards: an unfinished line is kept without a copy. */
  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#awaiting !== undefined) {
        at += this.#fill(chunk.subarray(at))
        continue
      }
      const end = chunk.indexOf(NEWLINE, at)
      if (end < 0) {
        this.#hold(chunk.subarray(at))
        return
      }
      if (this.#heldBytes === 0) {
        this.#finishLine(chunk.subarray(at, end), false)
      } else {
        this.#hold(chunk.subarray(at, end))
        this.#finishHeld()
      }
      at = end + 1
    }
  }

  /** Nothing more comes: what is left is the last line. */
  end(): void {
    if (this.#heldBytes > 0) this.#finishHeld()
  }

  /** Returns how much of `bytes` belonged to the awaited ones. */
  #fill(bytes: Uint8Array): number {
    const { message, bytes: all } = this.#awaiting!
    const part = bytes.subarray(0, all.length - this.#filledBytes)
    all.set(part, this.#filledBytes)
    this.#filledBytes += part.length
    if (this.#filledBytes === all.length) {
      this.#awaiting = undefined
      this.#listener.onMessage(message, all)
    }
    return part.length
  }

  #hold(part: Uint8Array): void {
    const room = this.#limitOf(this.#held[0] ?? part) - this.#heldBytes
    if (part.length > room) this.#isCut = true
    if (part.length === 0 || room <= 0) return
    const kept = part.subarray(0, room)
    this.#held.push(kept)
    this.#heldBytes += kept.length
  }

  #limitOf(line: Uint8Array): number {
    return line[0] === BRACE ? Math.max(this.#maxMessageBytes, MAX_LINE_BYTES) : MAX_LINE_BYTES
  }

  #finishHeld(): void {
    const line = this.#held.length === 1 ? this.#held[0]! : Buffer.concat(this.#held)
    const isCut = this.#isCut
    this.#held = []
    this.#heldBytes = 0
    this.#isCut = false
    this.#finishLine(line, isCut)
  }

  #finishLine(line: Uint8Array, isCut: boolean): void {
    if (line[0] !== BRACE || isCut || line.length > this.#maxMessageBytes) {
      this.#tellLine(line)
      return
    }
    const message = this.#parse(line)
    const bytes = message === undefined ? undefined : this.#roomFor(announcedBytes(message))
    if (message === undefined || bytes === undefined) {
      this.#tellLine(line)
    } else if (bytes.length > 0) {
      this.#awaiting = { message, bytes }
      this.#filledBytes = 0
    } else {
      this.#listener.onMessage(message, noBytes)
    }
  }

  /** Undefined for more than there may be, and for what is no size: a library may print an object, too. */
  #roomFor(sizeBytes: number): Uint8Array | undefined {
    if (sizeBytes === 0) return noBytes
    if (sizeBytes > this.#maxMessageBytes) return undefined
    try {
      return new Uint8Array(sizeBytes)
    } catch {
      return undefined
    }
  }

  #parse(line: Uint8Array): Message | undefined {
    try {
      return JSON.parse(this.#decoder.decode(line)) as Message
    } catch {
      return undefined
    }
  }

  #tellLine(line: Uint8Array): void {
    this.#listener.onLine(this.#decoder.decode(line.subarray(0, MAX_LINE_BYTES)))
  }
}

const announcedBytes = (message: object): number => {
  const { bytes } = message as { readonly bytes?: unknown }
  return typeof bytes === "number" ? bytes : 0
}
