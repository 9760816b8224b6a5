/**
 * Which version a connection is offered. The front process decides and the session process answers HELLO, so an offer
 * travels with the connection, as one number (handOver.ts).
 */
import { formatVersion, helloRange, offers, type ProtocolSpec, servable } from "@ggml-rpc/protocol"
import { refuse } from "./errors.ts"
import { HELLO_BYTES } from "./spoken.ts"

/** A pinned version, or what is offered to either kind of HELLO: places in `offers`. */
export type Offer =
  | { readonly pinned: ProtocolSpec }
  | { readonly withCaps: number; readonly withoutCaps: number }

/** What a client that nobody knows is offered. */
export const firstOffer: Offer = { withCaps: 0, withoutCaps: 0 }

const PINNED = 0x80

/** @throws {RangeError} for a version that is none of the protocol package's */
export const encodeOffer = (offer: Offer): number => {
  if (!("pinned" in offer)) return offer.withCaps | (offer.withoutCaps << 3)
  const index = servable.indexOf(offer.pinned)
  if (index < 0) throw new RangeError("only a version of @ggml-rpc/protocol can be pinned")
  return PINNED | index
}

export const decodeOffer = (byte: number): Offer =>
  (byte & PINNED) !== 0
    ? { pinned: servable[byte & ~PINNED]! }
    : { withCaps: byte & 7, withoutCaps: (byte >> 3) & 7 }

/** Whether a HELLO of so many bytes had capabilities. */
export const hasCaps = (helloBytes: number): boolean => helloBytes === HELLO_BYTES

/**
 * The version for a client that said HELLO with so many bytes. One with capabilities is told an older version than such
 * clients have, in the form that it reads: those of this project speak it, and upstream's say which version they miss.
 *
 * @throws {ProtocolError} when the pinned one is newer than a client without: the answer's size alone would end the client
 */
export const choose = (offer: Offer, helloBytes: number): ProtocolSpec => {
  const helloCaps = hasCaps(helloBytes)
  if (!("pinned" in offer)) {
    return helloCaps ? offers(true)[offer.withCaps]! : offers(false)[offer.withoutCaps]!
  }
  const { features, version } = offer.pinned
  if (features.helloCaps && !helloCaps) {
    refuse(
      "payload_size",
      `is that of protocol ${helloRange(helloCaps)}, but this port speaks ${formatVersion(version)} only (--protocol)`,
      helloBytes,
    )
  }
  return offer.pinned
}
