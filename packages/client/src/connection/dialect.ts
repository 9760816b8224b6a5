/**
 * What a connection must know of the protocol's version: how it greets, and the sizes and codecs of its commands. The
 * requests that are written straight into a connection's block are in devices/requests.ts; nothing else in this package
 * depends on a version.
 */
import {
  Command,
  decodeResponse,
  encodeRequest,
  formatVersion,
  HelloExtension,
  type MessageId,
  negotiate,
  noConnCaps,
  type RequestOf,
  type ResponseOf,
  responseCodec,
  V7_0_0,
  type Version,
} from "@ggml-rpc/protocol"
import { HandshakeError } from "../errors.ts"

/** Larger weights are first offered by their hash. */
export const HASH_THRESHOLD_BYTES = V7_0_0.features.hashThresholdBytes

/** A whole request. */
export const requestOf = <C extends MessageId>(
  command: C,
  value: RequestOf<C>,
): Uint8Array<ArrayBuffer> => encodeRequest(command, value, V7_0_0)

/** Bytes of a response of fixed size, without the 8 that announce it. */
export const responseSizeBytes = (command: MessageId): number =>
  responseCodec(command, V7_0_0).minSizeBytes

/** A response's value from its payload. */
export const responseOf = <C extends MessageId>(command: C, payload: Uint8Array): ResponseOf<C> =>
  decodeResponse(command, payload, V7_0_0)

/** What a server said of itself in HELLO. */
export interface Greeting {
  readonly version: Version
  /** It has no cache; one of upstream's never tells. */
  readonly lacksCache: boolean
  /** A tensor takes just its own bytes on every device of it: no need to ask. */
  readonly hasPlainSizes: boolean
}

/** The first request of a connection. */
export const helloRequest = (): Uint8Array<ArrayBuffer> =>
  requestOf(Command.HELLO, { connCaps: noConnCaps() })

/** What the answer to HELLO says, or why a server of that version is of no use. */
export const readHello = (endpoint: string, payload: Uint8Array): Greeting | HandshakeError => {
  const { major, minor, patch, extension } = responseOf(Command.HELLO, payload)
  const version = { major, minor, patch }
  if (!negotiate(version, V7_0_0.version).accepted) {
    return new HandshakeError({ endpoint, reason: "version", detail: formatVersion(version) })
  }
  const isOurs = (extension & HelloExtension.LEVEL_MASK) >= HelloExtension.LEVEL
  return {
    version,
    lacksCache: isOurs && (extension & HelloExtension.NO_CACHE) !== 0,
    hasPlainSizes: isOurs && (extension & HelloExtension.PLAIN_SIZES) !== 0,
  }
}
