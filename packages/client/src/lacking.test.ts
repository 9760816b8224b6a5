import { expect, test } from "bun:test"
import { MOST_FOUND } from "@ggml-rpc/native/bindings/llama"
import { extensionCommands, MAX_TOP_COUNT } from "@ggml-rpc/protocol"
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

test("a server of ours knows bf16, and finds the largest values, from its level on", () => {
  const connection = new RpcConnection({ host: "127.0.0.1", port: 1 })
  const { GET_TENSOR_BF16, GET_TENSOR_TOP } = extensionCommands
  for (const told of [0, 5, 6, 7, 8]) {
    connection.level = told
    expect(connection.speaksBf16).toBe(told >= GET_TENSOR_BF16.level)
    expect(connection.findsTop).toBe(told >= GET_TENSOR_TOP.level)
  }
})

test("a context has servers find no more than they may be asked for", () => {
  expect(MOST_FOUND).toBeLessThanOrEqual(MAX_TOP_COUNT)
})
