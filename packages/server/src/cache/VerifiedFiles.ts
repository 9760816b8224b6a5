import { type BigIntStats, fstatSync, readSync, writeSync } from "node:fs"
import { attempt } from "./files.ts"

/**
 * Files whose bytes were seen to hash to their name, by name and everything that changes when a file is
 * touched. All session processes of a server share the list, as a file that has no name: hashing takes
 * longer than sending the weights again would.
 */
export class VerifiedFiles {
  readonly #descriptor: number
  readonly #keys = new Set<string>()
  #readBytes = 0

  /** `descriptor`: a file opened for reading and appending. */
  constructor(descriptor: number) {
    this.#descriptor = descriptor
  }

  has(key: string): boolean {
    if (!this.#keys.has(key)) this.#readMore()
    return this.#keys.has(key)
  }

  add(key: string): void {
    attempt(() => writeSync(this.#descriptor, `${key}\n`))
  }

  #readMore(): void {
    const { size } = fstatSync(this.#descriptor)
    if (size <= this.#readBytes) return
    const bytes = new Uint8Array(size - this.#readBytes)
    const count = readSync(this.#descriptor, bytes, 0, bytes.length, this.#readBytes)
    const text = new TextDecoder().decode(bytes.subarray(0, count))
    // Another process may be in the middle of a line.
    const whole = text.slice(0, text.lastIndexOf("\n") + 1)
    this.#readBytes += whole.length
    for (const line of whole.split("\n")) if (line !== "") this.#keys.add(line)
  }
}

/** Name and all that changes when a file is touched. */
export const keyOf = (name: string, stats: BigIntStats): string =>
  [name, stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].join(" ")
