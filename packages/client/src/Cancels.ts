import { closeSync, openSync, readSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EngineStartError } from "./errors.ts"

/** Places in the file, as in packages/native/shim/abort_flag.h; no more requests may be outstanding. */
export const CANCEL_SLOTS = 1024

const ID_SIZE_BYTES = 4

/** Where the engine tells what it waits for (`connection/waiting.ts`): a page of its own, on any system. */
export const WAIT_OFFSET_BYTES = 64 * 1024
const WAIT_SIZE_BYTES = 4096

/** What the engine is blocked by: the same one as long as `count` is. */
export interface Wait {
  /** Of the server, in the order in which they were given; -1: none is waited for. */
  readonly place: number
  readonly count: number
  /** A bit for each place of servers that add up sums together. */
  readonly linked: number
}

/** The first keeps the file in memory; macOS has no such folder. */
const usualFolders = ["/dev/shm", tmpdir()]

/**
 * A file without a name, which the engine maps: the host writes the ids of requests into it that are to stop. So a cancel
 * reaches an engine that is inside a blocking call, means one request, and is harmless before that begins and after it
 * ended. Ids are told apart as long as no two that are outstanding have the same place. Behind them the engine
 * writes what it waits for: nobody else could tell while it is blocked.
 */
export class Cancels {
  /** For the engine to inherit. */
  readonly descriptor: number

  /**
   * @param folders where it may be; the first that takes it
   * @throws {EngineStartError} when none does
   */
  constructor(folders: ReadonlyArray<string> = usualFolders) {
    this.descriptor = openNameless(folders)
  }

  /** Stops the request of this id: an integer from 1 to 2^32 - 1. */
  cancel(id: number): void {
    writeSync(
      this.descriptor,
      Uint32Array.of(id),
      0,
      ID_SIZE_BYTES,
      (id % CANCEL_SLOTS) * ID_SIZE_BYTES,
    )
  }

  /** What the engine waits for now. */
  waiting(): Wait {
    const words = new Uint32Array(3)
    readSync(this.descriptor, words, 0, words.byteLength, WAIT_OFFSET_BYTES)
    return { place: words[0]! - 1, count: words[1]!, linked: words[2]! }
  }

  close(): void {
    closeSync(this.descriptor)
  }
}

const openNameless = (folders: ReadonlyArray<string>): number => {
  const problems: Array<string> = []
  for (const folder of folders) {
    const path = join(folder, `ggml-rpc-${crypto.randomUUID()}`)
    try {
      return openFilled(path)
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error))
    }
  }
  throw new EngineStartError({
    detail: `it needs a small temporary file, for which there is no place (${problems.join("; ")})`,
  })
}

/** All of it is written: where the folder is full this fails, and not a cancel. */
const openFilled = (path: string): number => {
  const descriptor = openSync(path, "wx+", 0o600)
  try {
    rmSync(path)
    writeSync(descriptor, new Uint8Array(CANCEL_SLOTS * ID_SIZE_BYTES))
    writeSync(descriptor, new Uint8Array(WAIT_SIZE_BYTES), 0, WAIT_SIZE_BYTES, WAIT_OFFSET_BYTES)
    return descriptor
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}
