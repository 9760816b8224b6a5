import { LINK_KEY_BYTES } from "@ggml-rpc/protocol"

/**
 * What a server shows another one in place of a link's key: the first bytes of its SHA-256. A client chooses the key and whom it is
 * shown to, and would else choose what this server says to any service that listens there.
 */
export const shownKey = (key: Uint8Array): Uint8Array =>
  new Bun.CryptoHasher("sha256").update(key).digest().subarray(0, LINK_KEY_BYTES)
