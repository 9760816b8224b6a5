import { expect, test } from "bun:test"
import { extensionCommands } from "@ggml-rpc/protocol"
import { RpcConnection } from "./connection/RpcConnection.ts"
import { describeExactServers } from "./lacking.ts"

test("servers that know no bf16 are named, with what they are", () => {
  const one = { endpoint: "10.0.0.2:50052", kind: "ggml-rpc" } as const
  const other = { endpoint: "10.0.0.3:50052", kind: "llama.cpp" } as const
  expect(describeExactServers([one])).toBe(
    "Activations to and from one server stay F32 (--wire): 10.0.0.2:50052 is of an older version of ggml-rpc.",
  )
  // Parts of a model and of the one that guesses for it may be on the same.
  expect(describeExactServers([one, one])).toBe(describeExactServers([one]))
  expect(describeExactServers([one, other])).toBe(
    "Activations to and from some servers stay F32 (--wire): 10.0.0.2:50052 is of an older version of ggml-rpc, 10.0.0.3:50052 is a server of llama.cpp.",
  )
})

test("a server of ours knows bf16 from its level on", () => {
  const connection = new RpcConnection({ host: "127.0.0.1", port: 1 })
  const { level } = extensionCommands.GET_TENSOR_BF16
  for (const told of [0, level - 1, level, level + 1]) {
    connection.level = told
    expect(connection.speaksBf16).toBe(told >= level)
  }
})
