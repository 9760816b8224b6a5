import { GgufError } from "./GgufError.ts"
import { type HttpOptions, HttpRanges } from "./HttpRanges.ts"
import { MissingBytes, type Source } from "./Source.ts"

export type { HttpOptions } from "./HttpRanges.ts"

/** Each further block is twice as long, so that a header of n bytes takes log n requests. */
const FIRST_BLOCK_BYTES = 1024 * 1024
const MAX_BLOCK_BYTES = 32 * 1024 * 1024
/** What a header may make us fetch; those of the largest vocabularies have 20 MiB. */
const MAX_FETCHED_BYTES = 512 * 1024 * 1024

/** Bytes of the file that are here. */
interface Block {
  readonly offsetBytes: number
  readonly bytes: Uint8Array
}

/** A file on an HTTP server. Blocks that were fetched stay, since the parser starts again after each. */
export class HttpSource implements Source {
  readonly location: string
  readonly #ranges: HttpRanges
  readonly #blocks: Block[] = []
  #nextBlockBytes = FIRST_BLOCK_BYTES
  #fetchedBytes = 0

  private constructor(location: string, ranges: HttpRanges) {
    this.location = location
    this.#ranges = ranges
  }

  /** Fetches the first block, from `offsetBytes` on. Rejects with `GgufError`. */
  static async open(location: string, options: HttpOptions, offsetBytes = 0): Promise<HttpSource> {
    const source = new HttpSource(location, new HttpRanges(location, options))
    await source.#fetch(offsetBytes, FIRST_BLOCK_BYTES)
    return source
  }

  get name(): string {
    return this.#ranges.name
  }

  get sizeBytes(): number {
    return this.#ranges.sizeBytes
  }

  /** Runs a parser until all the bytes that it reads are here. */
  async parse<A>(parser: (source: Source) => A): Promise<A> {
    for (;;) {
      try {
        return parser(this)
      } catch (error) {
        if (!(error instanceof MissingBytes)) throw error
        await this.#fetch(error.offsetBytes, error.sizeBytes)
      }
    }
  }

  read(target: Uint8Array, offsetBytes: number): number {
    if (offsetBytes >= this.sizeBytes) return 0
    for (const block of this.#blocks) {
      const at = offsetBytes - block.offsetBytes
      if (at < 0 || at >= block.bytes.byteLength) continue
      const found = block.bytes.subarray(at, at + target.byteLength)
      target.set(found)
      return found.byteLength
    }
    throw new MissingBytes(offsetBytes, target.byteLength)
  }

  async #fetch(offsetBytes: number, leastBytes: number): Promise<void> {
    if (this.#fetchedBytes >= MAX_FETCHED_BYTES) {
      throw new GgufError({
        path: this.name,
        reason: "malformed",
        message: `${this.name} is not a usable GGUF file: its header has more than ${MAX_FETCHED_BYTES} bytes; give another conversion of the model`,
      })
    }
    const bytes = await this.#ranges.fetch(offsetBytes, Math.max(leastBytes, this.#nextBlockBytes))
    this.#blocks.push({ offsetBytes, bytes })
    this.#fetchedBytes += bytes.byteLength
    this.#nextBlockBytes = Math.min(2 * this.#nextBlockBytes, MAX_BLOCK_BYTES)
  }
}
