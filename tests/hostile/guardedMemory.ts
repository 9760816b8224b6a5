/**
 * Memory between regions that nothing may touch: a byte read or written before or behind it ends the process, with the
 * address in its last words.
 */
import { dlopen, toArrayBuffer } from "bun:ffi"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"

/** Far more than a stride of 32 bits leads away. It takes address space only. */
const GUARD_BYTES = 16 * 2 ** 30

const PAGE_BYTES = 4096

const isLinux = process.platform === "linux"

/** `mmap` and `mprotect` (sys/mman.h). */
const PROTECT_NONE = 0
const PROTECT_READ_WRITE = 3
/** Private, anonymous, and without a claim to memory until it is written. */
const MAP_FLAGS = isLinux ? 0x4022 : 0x1042

const libc = dlopen(isLinux ? "libc.so.6" : "libSystem.dylib", {
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
  mprotect: { args: ["ptr", "u64", "i32"], returns: "i32" },
}).symbols

export interface GuardedMemory {
  readonly address: Address
  /** Whole pages. */
  readonly sizeBytes: number
  readonly bytes: Uint8Array<ArrayBuffer>
}

/**
 * Maps at least `sizeBytes`, zero, for the rest of the process's life.
 *
 * @throws {Error} when the system has no address space left
 */
export const guardedMemory = (sizeBytes: number): GuardedMemory => {
  const size = Math.ceil(sizeBytes / PAGE_BYTES) * PAGE_BYTES
  const start = libc.mmap(null, 2 * GUARD_BYTES + size, PROTECT_NONE, MAP_FLAGS, -1, 0)
  // MAP_FAILED is -1.
  if (start === null || Number(start) <= 0 || Number(start) >= 2 ** 47) {
    throw new Error(`mmap: no address space for ${size} bytes between guards`)
  }
  const address = Number(start) + GUARD_BYTES
  if (libc.mprotect(asPointer(address), size, PROTECT_READ_WRITE) !== 0) {
    throw new Error(`mprotect: ${size} bytes at 0x${address.toString(16)} cannot be opened`)
  }
  return {
    address,
    sizeBytes: size,
    bytes: new Uint8Array(toArrayBuffer(asPointer(address), 0, size)),
  }
}
