/**
 * A file that is not whole yet: its bytes beside the place it goes to, at their places, and a journal of which are
 * there. llama.cpp's name for such files is another one, since it takes their length for what is there.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"

export interface PartShape {
  /** What the bytes belong to: a checksum, or a version that a server told; undefined: nothing can be continued. */
  readonly identity: string | undefined
  readonly sizeBytes: number
  /** Bytes of a chunk; the last one may be shorter. */
  readonly chunkBytes: number
}

interface Journal {
  readonly identity: string
  readonly sizeBytes: number
  readonly chunkBytes: number
  /** Bytes of each chunk that are there, from its start. */
  readonly doneBytes: readonly number[]
}

/** A crash loses at most what came since. */
const JOURNAL_INTERVAL_MS = 1000

export class Part {
  readonly path: string
  readonly handle: FileHandle
  readonly shape: PartShape
  readonly #journalPath: string
  #doneBytes: number[]
  #totalBytes: number
  /** The first chunk that is not whole. */
  #leadingChunk = 0
  #savedMs = 0

  private constructor(
    path: string,
    journalPath: string,
    handle: FileHandle,
    shape: PartShape,
    doneBytes: number[],
  ) {
    this.path = path
    this.#journalPath = journalPath
    this.handle = handle
    this.shape = shape
    this.#doneBytes = doneBytes
    this.#totalBytes = doneBytes.reduce((sum, bytes) => sum + bytes, 0)
  }

  /** What is there of that file already, without opening it. */
  static keptBytes(target: string, shape: PartShape): number {
    const kept = readJournal(`${target}.part.json`, shape) ?? []
    return kept.reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Continues what is there of the same file, else starts anew. Throws what the file system says. */
  static async open(target: string, shape: PartShape): Promise<Part> {
    const path = `${target}.part`
    const journalPath = `${path}.json`
    const chunkCount = Math.ceil(shape.sizeBytes / shape.chunkBytes)
    const found = readJournal(journalPath, shape)
    // Not "w": a file without a fitting journal is emptied only once it is ours.
    const handle = await open(path, "a+").then(async (made) => {
      await made.close()
      return open(path, "r+")
    })
    try {
      const { size } = await handle.stat()
      const isUsable = found !== undefined && size === shape.sizeBytes
      if (!isUsable) {
        rmSync(journalPath, { force: true })
        await handle.truncate(0)
        await handle.truncate(shape.sizeBytes)
      }
      const doneBytes = isUsable ? [...found] : new Array<number>(chunkCount).fill(0)
      return new Part(path, journalPath, handle, shape, doneBytes)
    } catch (error) {
      await handle.close()
      if (found === undefined) rmSync(path, { force: true })
      throw error
    }
  }

  get doneBytes(): number {
    return this.#totalBytes
  }

  /** How far the file is there without a gap. */
  get leadingBytes(): number {
    while (
      this.#leadingChunk < this.chunkCount &&
      this.chunkDone(this.#leadingChunk) === this.chunkSize(this.#leadingChunk)
    ) {
      this.#leadingChunk++
    }
    const before = Math.min(this.#leadingChunk * this.shape.chunkBytes, this.shape.sizeBytes)
    return before + (this.#doneBytes[this.#leadingChunk] ?? 0)
  }

  get chunkCount(): number {
    return this.#doneBytes.length
  }

  chunkSize(chunk: number): number {
    const { sizeBytes, chunkBytes } = this.shape
    return Math.min(chunkBytes, sizeBytes - chunk * chunkBytes)
  }

  chunkDone(chunk: number): number {
    return this.#doneBytes[chunk]!
  }

  /** Puts bytes behind what is there of a chunk. */
  async append(chunk: number, bytes: Uint8Array): Promise<void> {
    const at = chunk * this.shape.chunkBytes + this.#doneBytes[chunk]!
    await writeAll(this.handle, bytes, at)
    this.#doneBytes[chunk]! += bytes.byteLength
    this.#totalBytes += bytes.byteLength
    if (performance.now() - this.#savedMs >= JOURNAL_INTERVAL_MS) this.saveJournal()
  }

  /** Notes what is there, so that a later process goes on from it. */
  saveJournal(): void {
    this.#savedMs = performance.now()
    const { identity, sizeBytes, chunkBytes } = this.shape
    if (identity === undefined) return
    const journal: Journal = { identity, sizeBytes, chunkBytes, doneBytes: this.#doneBytes }
    const temporary = `${this.#journalPath}.tmp`
    try {
      writeFileSync(temporary, JSON.stringify(journal))
      renameSync(temporary, this.#journalPath)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    }
  }

  /** Forgets everything, to begin with the first byte. */
  async restart(): Promise<void> {
    this.#doneBytes = this.#doneBytes.map(() => 0)
    this.#totalBytes = 0
    this.#leadingChunk = 0
    rmSync(this.#journalPath, { force: true })
    await this.handle.truncate(0)
    await this.handle.truncate(this.shape.sizeBytes)
  }

  /** Makes it the file at `target`, in one step. */
  async publish(target: string): Promise<void> {
    await this.handle.datasync()
    renameSync(this.path, target)
    rmSync(this.#journalPath, { force: true })
  }

  discard(): void {
    rmSync(this.#journalPath, { force: true })
    rmSync(this.path, { force: true })
  }
}

export const writeAll = async (
  handle: FileHandle,
  bytes: Uint8Array,
  offsetBytes: number,
): Promise<void> => {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await handle.write(
      bytes,
      done,
      bytes.byteLength - done,
      offsetBytes + done,
    )
    done += bytesWritten
  }
}

/** Bytes of each chunk by the journal, if there is one that fits. */
const readJournal = (
  path: string,
  { identity, sizeBytes, chunkBytes }: PartShape,
): readonly number[] | undefined => {
  try {
    const journal = JSON.parse(readFileSync(path, "utf8")) as Partial<Journal>
    const { doneBytes = [] } = journal
    const isFitting =
      identity !== undefined &&
      journal.identity === identity &&
      journal.sizeBytes === sizeBytes &&
      journal.chunkBytes === chunkBytes &&
      doneBytes.length === Math.ceil(sizeBytes / chunkBytes) &&
      doneBytes.every(
        (bytes, chunk) =>
          Number.isInteger(bytes) &&
          bytes >= 0 &&
          bytes <= Math.min(chunkBytes, sizeBytes - chunk * chunkBytes),
      )
    return isFitting ? doneBytes : undefined
  } catch {
    return undefined
  }
}
