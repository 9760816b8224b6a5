import { proofText } from "@ggml-rpc/protocol"

/** What a side shows instead of a token; see `proofText`. */
export const tokenProof = (
  token: string,
  side: "client" | "server",
  clientNonce: Uint8Array,
  serverNonce: Uint8Array,
): Uint8Array =>
  new Bun.CryptoHasher("sha256", token).update(proofText(side, clientNonce, serverNonce)).digest()
