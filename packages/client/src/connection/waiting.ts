/**
 * What the engine waits for, for its host to see: an engine that is blocked cannot say it. Words in memory that both share,
 * written without a system call.
 */
import { toArrayBuffer } from "bun:ffi"
import { type Address, asPointer, io } from "@ggml-rpc/native/bindings"
import { WAIT_OFFSET_BYTES } from "../Cancels.ts"

/**
 * The server's place, from 1 on, or 0; how many waits have begun; and a bit for each place, below 32, of servers that are linked.
 * Nobody's, until there is a host.
 */
let words = new Uint32Array(3)

/** From now on the host sees it, in the file behind this descriptor. False when that cannot be mapped. */
export const shareWaits = (descriptor: number): boolean => {
  const page = io().io_map_page(descriptor, WAIT_OFFSET_BYTES) as Address | null
  if (page === null) return false
  words = new Uint32Array(toArrayBuffer(asPointer(page), 0, words.byteLength))
  return true
}

/** The server at this place, counted from 0, is about to be waited for; -1: nobody needs to know. */
export const beginWait = (place: number): void => {
  words[1]!++
  words[0] = place + 1
}

/** The servers at these places, and no others, add up sums together from now on, so that who waits for one may wait for another one of them. */
export const noteLinked = (places: ReadonlyArray<number>): void => {
  words[2] = places.reduce((bits, place) => (place < 32 ? bits | (1 << place) : bits), 0)
}

export const endWait = (): void => {
  words[0] = 0
}
