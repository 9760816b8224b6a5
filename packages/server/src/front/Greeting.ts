import {
  ExtensionCommand,
  LINK_KEY_BYTES,
  ProtocolError,
  REQUEST_HEADER_SIZE_BYTES,
} from "@ggml-rpc/protocol"
import { helloPayloadBytes } from "../session/hello.ts"

/** What a connection has said so far comes to. */
export type Verdict =
  /** It has to say more. */
  | "more"
  /** A session may have it, with what was read; `helloBytes` are those of HELLO's payload. */
  | { readonly kind: "admitted"; readonly early: Uint8Array; readonly helloBytes: number }
  /** It wants to be a link of the session that expects this key. */
  | { readonly kind: "joins"; readonly key: Uint8Array }
  /** It gets an answer, and has to say more. */
  | { readonly kind: "answer"; readonly answer: Uint8Array }
  /** It is closed, after an answer where there is one; the reason is a clause for the log. */
  | { readonly kind: "refused"; readonly reason: string; readonly answer?: Uint8Array }

/** Reads what a connection says before a session may have it. */
export interface Greeting {
  /** Takes what came. Not called again after a verdict but "more". */
  readonly receive: (bytes: Uint8Array) => Verdict
  /** Why a client that leaves now should not have come; undefined when nothing is to be said of it. */
  readonly lacks?: string | undefined
}

const noBytes = new Uint8Array(0)

const LINK_KEY_REQUEST_BYTES = REQUEST_HEADER_SIZE_BYTES + LINK_KEY_BYTES

const NO_LINK_KEY: Verdict = {
  kind: "refused",
  reason: "says what is no key of a link between servers",
}

/** A whole key, and nothing behind: who shows one waits for the answer. */
const readLinkKey = (all: Uint8Array): Verdict => {
  const view = new DataView(all.buffer, all.byteOffset, all.length)
  if (
    all.length >= REQUEST_HEADER_SIZE_BYTES &&
    view.getBigUint64(1, true) !== BigInt(LINK_KEY_BYTES)
  ) {
    return NO_LINK_KEY
  }
  if (all.length > LINK_KEY_REQUEST_BYTES) return NO_LINK_KEY
  if (all.length < LINK_KEY_REQUEST_BYTES) return "more"
  return { kind: "joins", key: all.slice(REQUEST_HEADER_SIZE_BYTES) }
}

/** A whole HELLO, and nothing else before; or, from another server, the key of a link. */
export class HelloGreeting implements Greeting {
  #held: Uint8Array = noBytes

  receive(bytes: Uint8Array): Verdict {
    const all = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes])
    if (all[0] === ExtensionCommand.LINK_KEY) {
      const verdict = readLinkKey(all)
      this.#held = all.slice()
      return verdict
    }
    try {
      const helloBytes = helloPayloadBytes(all)
      if (helloBytes !== undefined && all.length >= REQUEST_HEADER_SIZE_BYTES + helloBytes) {
        return { kind: "admitted", early: all, helloBytes }
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      return { kind: "refused", reason: error.message }
    }
    // At most a HELLO but its last byte.
    this.#held = all.slice()
    return "more"
  }
}
