/**
 * A worker's own side: blocking reads and writes, for a process whose event loop never runs. Imported as
 * `@ggml-rpc/native/worker/child`; the parent's side is Worker.ts.
 */
import { readSync, writeSync } from "node:fs"

const encoder = new TextEncoder()

/**
 * Writes a message to stdout, with the raw bytes that its number `bytes` announces. Bun makes a piped stdout
 * non-blocking: who sends more than a pipe holds makes it blocking before (`io_tune_socket`).
 */
export const send = (message: object, bytes?: Uint8Array): void => {
  writeAll(encoder.encode(`${JSON.stringify(message)}\n`))
  if (bytes !== undefined) writeAll(bytes)
}

/** Writes several messages at once. */
export const sendAll = (messages: ReadonlyArray<object>): void => {
  writeAll(encoder.encode(messages.map((message) => `${JSON.stringify(message)}\n`).join("")))
}

const writeAll = (bytes: Uint8Array): void => {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at, bytes.length - at)
}

/** Messages of the parent from stdin, a JSON object a line. */
export class MessageReader<Message extends object> {
  readonly #chunk = new Uint8Array(64 * 1024)
  readonly #decoder = new TextDecoder()
  #text = ""
  /** Of that text, what holds no end of a line. */
  #searched = 0
  #isClosed = false

  /** Waits for the next one; undefined when stdin is closed. */
  next(): Message | undefined {
    for (;;) {
      const message = this.#take()
      if (message !== undefined) return message
      if (!this.#read()) return undefined
    }
  }

  /** The next one if it is there, without waiting. `isReadable` tells whether stdin has something to read now. */
  poll(isReadable: () => boolean): Message | undefined {
    for (;;) {
      const message = this.#take()
      if (message !== undefined) return message
      if (this.#isClosed || !isReadable() || !this.#read()) return undefined
    }
  }

  #take(): Message | undefined {
    const end = this.#text.indexOf("\n", this.#searched)
    if (end < 0) {
      // A line of many chunks is searched once.
      this.#searched = this.#text.length
      return undefined
    }
    const line = this.#text.slice(0, end)
    this.#text = this.#text.slice(end + 1)
    this.#searched = 0
    return JSON.parse(line) as Message
  }

  /** False when stdin is closed. */
  #read(): boolean {
    const size = this.#isClosed ? 0 : readSync(0, this.#chunk)
    this.#isClosed = size === 0
    this.#text += this.#decoder.decode(this.#chunk.subarray(0, size), { stream: true })
    return size > 0
  }
}
