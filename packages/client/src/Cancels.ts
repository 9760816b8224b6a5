import { randomUUID } from "node:crypto"
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** Places in the file, as in packages/native/shim/abort_flag.h; no more requests may be outstanding. */
export const CANCEL_SLOTS = 1024

const ID_SIZE_BYTES = 4

/** The first keeps the file in memory; macOS has no such folder. */
const folders = ["/dev/shm", tmpdir()]

/**
 * A file without a name, which the engine maps: the host writes the ids of requests into it that are to stop. So a cancel
 * reaches an engine that is inside a blocking call, means one request, and is harmless before that begins and after it
 * ended. Ids are told apart as long as those that are outstanding span fewer than `CANCEL_SLOTS`.
 */
export class Cancels {
  /** For the engine to inherit. */
  readonly descriptor: number

  /** @throws {Error} when no folder takes the file */
  constructor() {
    this.descriptor = openNameless()
    ftruncateSync(this.descriptor, CANCEL_SLOTS * ID_SIZE_BYTES)
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

const openNameless = (): number => {
  const problems: Array<string> = []
  for (const folder of folders) {
    const path = join(folder, `ggml-rpc-${randomUUID()}`)
    try {
      const descriptor = openSync(path, "wx+", 0o600)
      rmSync(path)
      return descriptor
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error))
    }
  }
  throw new Error(
    `The engine needs a small temporary file, and there is no place for it: ${problems.join("; ")}`,
  )
}
