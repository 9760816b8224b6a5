/** Servers that lack what this version's have. */
import type { ServerKind } from "./connection/hello.ts"

export interface LackingServer {
  readonly endpoint: string
  readonly kind: ServerKind
}

/** Why, as a clause. */
export const describeLacking = ({ endpoint, kind }: LackingServer): string =>
  `${endpoint} is ${kind === "ggml-rpc" ? "of an older version of ggml-rpc" : "a server of llama.cpp"}`

/** One sentence: what bf16 on the wire does not reach, as these servers do not know it. Each is named once. */
export const describeExactServers = (servers: ReadonlyArray<LackingServer>): string => {
  const reasons = [...new Set(servers.map(describeLacking))]
  return `Activations to and from ${reasons.length === 1 ? "one server" : "some servers"} stay F32 (--wire): ${reasons.join(", ")}.`
}
