import { closeSync, openSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EngineStartError } from "./errors.ts"

/** Places in the file, as in packages/native/shim/abort_flag.h; no more requests may be outstanding. */
export const CANCEL_SLOTS = 1024

const ID_SIZE_BYTES = 4

/** The first keeps the file in memory; macOS has no such folder. */
const usualFolders = ["/dev/shm", tmpdir()]

/**
 * A file without a name, which the engine maps: the host writes the ids of requests into it that are to stop. So a cancel
 * reaches an engine that is inside a blocking call, means one request, and is harmless before that begins and after it
 * ended. Ids are told apart as long as those that are outstanding span fewer than `CANCEL_SLOTS`.
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
    return descriptor
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}
