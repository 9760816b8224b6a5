import { toArrayBuffer } from "bun:ffi"
import { closeSync, fstatSync, ftruncateSync, readSync, writeSync } from "node:fs"
import { asPointer, io } from "@ggml-rpc/native/bindings"

/** A place begins where any system's pages do. */
const PLACE_BYTES = 64 * 1024

/** Nothing was asked yet. */
const NOTHING = 0

/**
 * What a session process does, in memory that the front process can read when it is dead: the command that it began last,
 * plus 1.
 */
export type Doing = Uint32Array

/** Of a process that nobody asks. */
export const nobodyAsks = (): Doing => new Uint32Array(1)

/** This process's place in the file; closes the descriptor. */
export const openDoing = (descriptor: number, slot: number): Doing => {
  const address = Number(io().io_map_page(descriptor, slot * PLACE_BYTES))
  closeSync(descriptor)
  if (address === 0) return nobodyAsks()
  return new Uint32Array(toArrayBuffer(asPointer(address), 0, 4))
}

/** Makes the place of a process that starts. */
export const clearDoing = (descriptor: number, slot: number): void => {
  // Never smaller: others have their places mapped.
  const end = (slot + 1) * PLACE_BYTES
  if (fstatSync(descriptor).size < end) ftruncateSync(descriptor, end)
  writeSync(descriptor, Uint32Array.of(NOTHING), 0, 4, slot * PLACE_BYTES)
}

/** The command that the process of a place began last; undefined when none. */
export const lastCommandOf = (descriptor: number, slot: number): number | undefined => {
  const word = new Uint32Array(1)
  const got = readSync(descriptor, word, 0, 4, slot * PLACE_BYTES)
  return got < 4 || word[0] === NOTHING ? undefined : word[0]! - 1
}
