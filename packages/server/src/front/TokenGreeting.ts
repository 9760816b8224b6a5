import {
  Command,
  ExtensionCommand,
  encodeGateResponse,
  encodeResponse,
  gateCommands,
  HelloExtension,
  newest,
  noConnCaps,
  REQUEST_HEADER_SIZE_BYTES,
} from "@ggml-rpc/protocol"
import { type Greeting, HelloGreeting, type Verdict } from "./Greeting.ts"
import { tokenProof } from "./tokenProof.ts"

const NONCE_BYTES = gateCommands.CHALLENGE.request.minSizeBytes

/** The version does not matter: HELLO is answered again, by a session. */
const helloAnswer = encodeResponse(Command.HELLO, {
  ...newest.version,
  extension: HelloExtension.LEVEL | HelloExtension.TOKEN,
  connCaps: noConnCaps(),
})

const noToken =
  "showed no token, which this server asks for: clients of ggml-rpc have --token-file, those of llama.cpp cannot be let in"

/**
 * Lets in who has the token: a HELLO that asks for it, a proof of each side, and then a HELLO for a session; see
 * `gateCommands`.
 */
export class TokenGreeting implements Greeting {
  readonly #token: string
  readonly #afterwards = new HelloGreeting()
  readonly #serverNonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES))
  #clientNonce: Uint8Array | undefined
  #state: "hello" | "challenge" | "proof" | "passed" = "hello"
  #held: Uint8Array = new Uint8Array(0)

  constructor(token: string) {
    this.#token = token
  }

  /** A client of llama.cpp leaves when it is told of another version than its own. */
  get lacks(): string | undefined {
    return this.#state === "challenge" ? noToken : undefined
  }

  receive(bytes: Uint8Array): Verdict {
    if (this.#state === "passed") return this.#afterwards.receive(bytes)
    this.#held = Buffer.concat([this.#held, bytes])
    return this.#state === "hello" ? this.#hello() : this.#command()
  }

  #hello(): Verdict {
    const verdict = new HelloGreeting().receive(this.#held)
    if (verdict === "more" || verdict.kind === "refused") return verdict
    if (verdict.kind !== "admitted") return { kind: "refused", reason: noToken }
    const { helloBytes, early } = verdict
    // The answer to the older form has no place to ask for anything.
    if (helloBytes === 0) return { kind: "refused", reason: noToken }
    // Who goes on without an answer does not know what it says.
    if (early.length > REQUEST_HEADER_SIZE_BYTES + helloBytes) {
      return { kind: "refused", reason: noToken }
    }
    this.#held = this.#held.subarray(early.length)
    this.#state = "challenge"
    return { kind: "answer", answer: helloAnswer }
  }

  /** CHALLENGE, then PROVE: the payload of each is as long as a nonce. */
  #command(): Verdict {
    const expected =
      this.#state === "challenge" ? ExtensionCommand.CHALLENGE : ExtensionCommand.PROVE
    const view = new DataView(this.#held.buffer, this.#held.byteOffset, this.#held.length)
    const isOther =
      view.getUint8(0) !== expected ||
      (view.byteLength >= REQUEST_HEADER_SIZE_BYTES &&
        view.getBigUint64(1, true) !== BigInt(NONCE_BYTES))
    if (isOther) return { kind: "refused", reason: noToken }
    const size = REQUEST_HEADER_SIZE_BYTES + NONCE_BYTES
    if (this.#held.length < size) return "more"
    if (this.#held.length > size) return { kind: "refused", reason: noToken }
    const payload = this.#held.slice(REQUEST_HEADER_SIZE_BYTES, size)
    this.#held = new Uint8Array(0)
    return this.#state === "challenge" ? this.#challenge(payload) : this.#prove(payload)
  }

  #challenge(clientNonce: Uint8Array): Verdict {
    this.#clientNonce = clientNonce
    this.#state = "proof"
    const answer = { nonce: this.#serverNonce, proof: this.#proofOf("server") }
    return { kind: "answer", answer: encodeGateResponse("CHALLENGE", answer) }
  }

  #prove(proof: Uint8Array): Verdict {
    const isRight = crypto.timingSafeEqual(proof, this.#proofOf("client"))
    const answer = encodeGateResponse("PROVE", { isRight: isRight ? 1 : 0 })
    if (!isRight)
      return { kind: "refused", reason: "showed another token than this server's", answer }
    this.#state = "passed"
    return { kind: "answer", answer }
  }

  #proofOf(side: "client" | "server"): Uint8Array {
    return tokenProof(this.#token, side, this.#clientNonce!, this.#serverNonce)
  }
}
