/**
 * A file that one process at a time holds, by `flock`: the kernel frees it when its holder dies, however that happens.
 * Hugging Face's own programs lock downloads in the same way and the same files, so they wait for ours and ours for them.
 */
import { dlopen, type Pointer, read } from "bun:ffi"
import { closeSync, mkdirSync, openSync } from "node:fs"
import { dirname } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"

const LOCK_EX = 2
const LOCK_NB = 4
const POLL_MS = 100

const isMac = process.platform === "darwin"
/** What says "another process holds it"; anything else is a file system that cannot lock. */
const EWOULDBLOCK = isMac ? 35 : 11

const openLibc = () =>
  isMac
    ? dlopen("libSystem.B.dylib", {
        flock: { args: ["i32", "i32"], returns: "i32" },
        __error: { args: [], returns: "ptr" },
      }).symbols
    : dlopen("libc.so.6", {
        flock: { args: ["i32", "i32"], returns: "i32" },
        __errno_location: { args: [], returns: "ptr" },
      }).symbols

let libc: ReturnType<typeof openLibc> | undefined

/** 0, or the error's number; 0 also where the C library is another one. */
const tryFlock = (descriptor: number): number => {
  try {
    libc ??= openLibc()
  } catch {
    return 0
  }
  if (libc.flock(descriptor, LOCK_EX | LOCK_NB) === 0) return 0
  const place = "__error" in libc ? libc.__error() : libc.__errno_location()
  return read.i32(place as Pointer, 0)
}

export class FileLock {
  readonly #descriptor: number

  private constructor(descriptor: number) {
    this.#descriptor = descriptor
  }

  /** Undefined while another process, or another lock of this one, holds it. Throws what the file system says. */
  static try(path: string): FileLock | undefined {
    mkdirSync(dirname(path), { recursive: true })
    const descriptor = openSync(path, "a")
    // Where a file system has no locks (some network ones), two downloads at once are wasteful, and still right.
    if (tryFlock(descriptor) !== EWOULDBLOCK) return new FileLock(descriptor)
    closeSync(descriptor)
    return undefined
  }

  /** Waits for who holds it, and calls back once when there is somebody to wait for. */
  static async take(path: string, signal: AbortSignal, onWait: () => void): Promise<FileLock> {
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted()
      const lock = FileLock.try(path)
      if (lock !== undefined) return lock
      if (attempt === 0) onWait()
      await sleep(POLL_MS, undefined, { signal }).catch(() => {
        throw signal.reason
      })
    }
  }

  release(): void {
    closeSync(this.#descriptor)
  }
}
