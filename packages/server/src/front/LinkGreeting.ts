import {
  Command,
  decodeGateResponse,
  decodeResponse,
  encodeGateRequest,
  encodeLinkKey,
  encodeLinkKeyAnswer,
  encodeRequest,
  gateCommands,
  HelloExtension,
  LinkStatus,
  newest,
  noConnCaps,
  RESPONSE_HEADER_SIZE_BYTES,
  responseCodec,
} from "@ggml-rpc/protocol"
import { shownKey } from "./linkKey.ts"
import { tokenProof } from "./tokenProof.ts"

/** What another server's words come to. */
export type LinkVerdict =
  /** It has to say more. */
  | "more"
  /** The connection is the two sessions' from here on. */
  | "linked"
  /** It asks for no token: a new connection can begin with the key. */
  | "no gate"
  /** It is to be told this. */
  | { readonly send: Uint8Array }
  /** There will be no link; a clause about the other server. */
  | { readonly reason: string }

const NONCE_BYTES = gateCommands.CHALLENGE.request.minSizeBytes

const linked = encodeLinkKeyAnswer(LinkStatus.DONE)

/** Payload bytes of an answer, by what was said. */
const answerBytes = {
  hello: responseCodec(Command.HELLO, newest).minSizeBytes,
  challenge: gateCommands.CHALLENGE.response.minSizeBytes,
  prove: gateCommands.PROVE.response.minSizeBytes,
  key: linked.length - RESPONSE_HEADER_SIZE_BYTES,
} as const

/**
 * What a server says to another one to have a link: what is shown of the key; or, as any client, first that it has the token, where it has one
 * itself, and as the other one may ask for the same.
 */
export class LinkGreeting {
  readonly #key: Uint8Array
  readonly #token: string
  readonly #nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES))
  #state: keyof typeof answerBytes
  #held: Uint8Array = new Uint8Array(0)
  /** What is said first. */
  readonly first: Uint8Array

  constructor(key: Uint8Array, token: string | undefined) {
    this.#key = key
    this.#token = token ?? ""
    this.#state = token === undefined ? "key" : "hello"
    this.first =
      token === undefined
        ? encodeLinkKey(shownKey(key))
        : encodeRequest(Command.HELLO, { connCaps: noConnCaps() })
  }

  /** Takes what came. Not called again after a verdict but "more" and what is to be sent. */
  receive(bytes: Uint8Array): LinkVerdict {
    this.#held = Buffer.concat([this.#held, bytes])
    const size = RESPONSE_HEADER_SIZE_BYTES + answerBytes[this.#state]
    if (this.#held.length < size) return "more"
    // Nobody says more than was asked for, and what follows the key's answer is the session's.
    const view = new DataView(this.#held.buffer, this.#held.byteOffset, this.#held.length)
    const announced = view.getBigUint64(0, true)
    if (this.#held.length > size || announced !== BigInt(answerBytes[this.#state])) {
      return { reason: "does not take the link" }
    }
    const answer = this.#held
    this.#held = new Uint8Array(0)
    const payload = answer.subarray(RESPONSE_HEADER_SIZE_BYTES)
    switch (this.#state) {
      case "hello":
        return this.#afterHello(payload)
      case "challenge":
        return this.#afterChallenge(payload)
      case "prove":
        return this.#afterProof(payload)
      case "key":
        return Buffer.compare(answer, linked) === 0
          ? "linked"
          : { reason: "does not take the link" }
    }
  }

  #afterHello(payload: Uint8Array): LinkVerdict {
    const { extension } = decodeResponse(Command.HELLO, payload, newest)
    const isAsked =
      (extension & HelloExtension.LEVEL_MASK) > 0 && (extension & HelloExtension.TOKEN) !== 0
    if (!isAsked) return "no gate"
    this.#state = "challenge"
    return { send: encodeGateRequest("CHALLENGE", { nonce: this.#nonce }) }
  }

  #afterChallenge(payload: Uint8Array): LinkVerdict {
    const { nonce, proof } = decodeGateResponse("CHALLENGE", payload)
    if (!crypto.timingSafeEqual(proof, tokenProof(this.#token, "server", this.#nonce, nonce))) {
      return { reason: "has another token than this server, or none" }
    }
    this.#state = "prove"
    const own = tokenProof(this.#token, "client", this.#nonce, nonce)
    return { send: encodeGateRequest("PROVE", { proof: own }) }
  }

  #afterProof(payload: Uint8Array): LinkVerdict {
    if (decodeGateResponse("PROVE", payload).isRight !== 1) {
      return { reason: "has another token than this server" }
    }
    this.#state = "key"
    return { send: encodeLinkKey(shownKey(this.#key)) }
  }
}
