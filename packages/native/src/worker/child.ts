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

const writeAll = (bytes: Uint8Array): void => {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at, bytes.length - at)
}

/** Messages of the parent from stdin, a JSON object a line. */
export class MessageReader<Message extends object> {
  readonly #chunk = new Uint8Array(64 * 1024)
  readonly #decoder = new TextDecoder()
  #text = ""

  /** Waits for the next one; undefined when stdin is closed. */
  next(): Message | undefined {
    // A line of many chunks is searched once.
    for (let from = 0; ; ) {
      const end = this.#text.indexOf("\n", from)
      if (end >= 0) {
        const line = this.#text.slice(0, end)
        this.#text = this.#text.slice(end + 1)
        return JSON.parse(line) as Message
      }
      from = this.#text.length
      const size = readSync(0, this.#chunk)
      if (size === 0) return undefined
      this.#text += this.#decoder.decode(this.#chunk.subarray(0, size), { stream: true })
    }
  }
}
