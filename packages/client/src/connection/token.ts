import { decodeGateResponse, encodeGateRequest, gateCommands, proofText } from "@ggml-rpc/protocol"
import { AccessError } from "../errors.ts"

/** Payload bytes of the answers, in the order of the questions. */
export const CHALLENGE_ANSWER_BYTES = gateCommands.CHALLENGE.response.minSizeBytes
export const PROVE_ANSWER_BYTES = gateCommands.PROVE.response.minSizeBytes

/**
 * Shows a server that this client has its token, and lets the server show the same, without either telling it; see
 * `gateCommands`. Two questions, whoever asks them: the engine waits for an answer, a probe does not.
 */
export class TokenProof {
  readonly #endpoint: string
  readonly #token: string
  readonly #nonce = crypto.getRandomValues(
    new Uint8Array(gateCommands.CHALLENGE.request.minSizeBytes),
  )

  constructor(endpoint: string, token: string) {
    this.#endpoint = endpoint
    this.#token = token
  }

  /** The first question. */
  challenge(): Uint8Array<ArrayBuffer> {
    return encodeGateRequest("CHALLENGE", { nonce: this.#nonce })
  }

  /** The second one, out of the first one's answer. */
  prove(answer: Uint8Array): Uint8Array<ArrayBuffer> | AccessError {
    const { nonce, proof } = decodeGateResponse("CHALLENGE", answer)
    if (!crypto.timingSafeEqual(proof, this.#proofOf("server", nonce))) {
      return new AccessError({ endpoint: this.#endpoint, reason: "server-unproven", detail: "" })
    }
    return encodeGateRequest("PROVE", { proof: this.#proofOf("client", nonce) })
  }

  /** What the second one's answer says. */
  check(answer: Uint8Array): AccessError | undefined {
    if (decodeGateResponse("PROVE", answer).isRight === 1) return undefined
    return new AccessError({ endpoint: this.#endpoint, reason: "token-wrong", detail: "" })
  }

  #proofOf(side: "client" | "server", serverNonce: Uint8Array): Uint8Array {
    const text = proofText(side, this.#nonce, serverNonce)
    // Not by node:crypto, whose import takes 7 ms of every engine's start, with a token or without.
    return new Bun.CryptoHasher("sha256", this.#token).update(text).digest()
  }
}
