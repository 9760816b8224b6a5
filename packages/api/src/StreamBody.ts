/** Body of an answer that comes in pieces. */

export interface StreamBodyOptions {
  /** The client has gone, or takes too long. */
  readonly onAbandoned: () => void
  /** Everything has been taken. */
  readonly onTaken: () => void
  /** How long a client may leave what is there unread. */
  readonly readTimeoutMs: number
}

/** What one client may leave unread, in characters: some ten thousand tokens of the wordiest dialect. */
const MAX_UNREAD_LENGTH = 16 * 1024 * 1024

/**
 * Text that is written by plain calls while a model computes, and read as fast as a client can: what it has not taken
 * is kept, so that nobody waits for a slow one, up to a limit and a time at which it is given up.
 */
export class StreamBody {
  readonly stream: ReadableStream<Uint8Array>
  readonly #options: StreamBodyOptions
  readonly #encoder = new TextEncoder()
  #unread: Array<string> = []
  #unreadLength = 0
  #state: "open" | "ended" | "closed" = "open"
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined
  #wanted: (() => void) | undefined
  #readTimer: ReturnType<typeof setTimeout> | undefined

  constructor(options: StreamBodyOptions) {
    this.#options = options
    this.stream = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller
        },
        pull: () =>
          new Promise<void>((resolve) => {
            this.#wanted = resolve
            this.#give()
          }),
        cancel: () => this.abandon(),
      },
      { highWaterMark: 0 },
    )
  }

  write(text: string): void {
    if (this.#state !== "open") return
    this.#unread.push(text)
    this.#unreadLength += text.length
    if (this.#unreadLength > MAX_UNREAD_LENGTH) this.#giveUp("it leaves too much unread")
    else this.#give()
  }

  /** Nothing more will be written. */
  end(): void {
    if (this.#state !== "open") return
    this.#state = "ended"
    this.#give()
  }

  #give(): void {
    const wanted = this.#wanted
    if (wanted === undefined) {
      if (this.#unread.length === 0) return
      this.#readTimer ??= setTimeout(
        () => this.#giveUp("it reads nothing"),
        this.#options.readTimeoutMs,
      )
      return
    }
    if (this.#unread.length === 0 && this.#state !== "ended") return
    clearTimeout(this.#readTimer)
    this.#readTimer = undefined
    if (this.#unread.length > 0) {
      this.#controller?.enqueue(this.#encoder.encode(this.#unread.join("")))
      this.#unread = []
      this.#unreadLength = 0
    }
    if (this.#state === "ended") {
      this.#close()
      this.#controller?.close()
      this.#options.onTaken()
    }
    this.#wanted = undefined
    wanted()
  }

  #giveUp(reason: string): void {
    this.#controller?.error(new Error(`The client is given up: ${reason}.`))
    this.abandon()
  }

  /** Nobody will read it any more. */
  abandon(): void {
    const isRunning = this.#state === "open"
    this.#close()
    this.#wanted?.()
    if (isRunning) this.#options.onAbandoned()
  }

  #close(): void {
    this.#state = "closed"
    this.#unread = []
    clearTimeout(this.#readTimer)
  }
}
