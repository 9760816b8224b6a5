/**
 * A connection on its way from the front process to a session process: its descriptor, what its client is offered, and the
 * bytes that were read of it, HELLO first, whatever came behind that one.
 */
import { fstatSync, readSync } from "node:fs"
import { errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import { decodeOffer, encodeOffer, type Offer } from "./offer.ts"

/** So many bytes fit the channel whatever happens; more go in a file in memory. A client as it should be sends 33. */
const INLINE_BYTES = 16 * 1024

const noBytes = new Uint8Array(0)

export interface HandedConnection {
  readonly fd: number
  readonly offer: Offer
  /** What was read of it. */
  readonly early: Uint8Array
}

/** Never waits. The caller still owns its copy of the descriptor. "" or what went wrong: then the channel is of no more use. */
export const handOver = (channel: number, { fd, offer, early }: HandedConnection): string => {
  const tag = encodeOffer(offer)
  if (early.length <= INLINE_BYTES) {
    const result = io().io_send_connection(channel, fd, tag, early, early.length, -1)
    return result < 0 ? ioErrorText(result) : ""
  }
  const file = io().io_memory_file(early, early.length)
  if (file < 0) return ioErrorText(file)
  const result = io().io_send_connection(channel, fd, tag, noBytes, 0, file)
  io().io_close(file)
  return result < 0 ? ioErrorText(result) : ""
}

/** An answer of the front process to what a session asked for under a number; see `PeerRequest`. */
export interface FrontNote {
  readonly id: number
  /** One of `LinkStatus`. */
  readonly status: number
  /** A connection, or -1. */
  readonly fd: number
}

/** Never waits. As `handOver`, with the caller's own copy of the descriptor. */
export const sendNote = (channel: number, { id, status, fd }: FrontNote): string => {
  const result = io().io_send_connection(channel, fd, id, Uint8Array.of(status), 1, -1)
  return result < 0 ? ioErrorText(result) : ""
}

/** Waits for the next note: "gone" when the client, or the front process, is; "late" when none came in time. */
export const receiveNote = (
  channel: number,
  clientFd: number,
  timeoutMs: number,
): FrontNote | "gone" | "late" => {
  const result = io().io_receive_note(channel, clientFd, timeoutMs, inline, INLINE_BYTES, words)
  if (result === errno.timedOut) return "late"
  if (result < 0) return "gone"
  if (words[1]! < 1) {
    if (words[2]! >= 0) io().io_close(words[2]!)
    return "gone"
  }
  return { id: words[0]!, status: inline[0]!, fd: words[2]! }
}

const inline = new Uint8Array(INLINE_BYTES)
const words = new Int32Array(3)

/** Waits for the next one; undefined when the front process is gone. */
export const takeOver = (channel: number): HandedConnection | undefined => {
  const fd = io().io_receive_connection(channel, inline, INLINE_BYTES, words)
  if (fd < 0) return undefined
  const file = words[2]!
  const early = file < 0 ? inline.subarray(0, words[1]!) : readFile(file)
  return { fd, offer: decodeOffer(words[0]!), early }
}

const readFile = (file: number): Uint8Array => {
  const bytes = new Uint8Array(fstatSync(file).size)
  for (let at = 0; at < bytes.length; ) {
    const got = readSync(file, bytes, at, bytes.length - at, at)
    if (got === 0) throw new Error("a connection's first bytes are missing")
    at += got
  }
  io().io_close(file)
  return bytes
}
