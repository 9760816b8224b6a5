import { describe, expect, test } from "bun:test"
import { EndpointError } from "@ggml-rpc/protocol"
import {
  type ClusterError,
  ConnectError,
  EngineEndedError,
  EngineRequestError,
  EngineStartError,
  errorFromData,
  errorToData,
  HandshakeError,
  isClusterError,
  ModelError,
  PlanError,
  RemoteMemoryError,
  ServerLostError,
  UnsupportedOpError,
} from "./errors.ts"

const endpoint = "10.0.0.2:50052"

const examples: ReadonlyArray<ClusterError> = [
  new ConnectError({ endpoint, reason: "refused", detail: "Connection refused" }),
  new ConnectError({ endpoint, reason: "timeout", detail: "" }),
  new ConnectError({ endpoint, reason: "unresolved", detail: "Name or service not known" }),
  new ConnectError({ endpoint, reason: "unreachable", detail: "No route to host" }),
  new ConnectError({ endpoint, reason: "other", detail: "Too many open files" }),
  new HandshakeError({ endpoint, reason: "not-a-server", detail: "it sent something else" }),
  new HandshakeError({ endpoint, reason: "closed", detail: "" }),
  new HandshakeError({ endpoint, reason: "version", detail: "the server speaks protocol 9.0.0" }),
  new HandshakeError({ endpoint, reason: "busy", detail: "5.0 s" }),
  new HandshakeError({ endpoint, reason: "no-devices", detail: "" }),
  new ServerLostError({ endpoint, during: "GET_TENSOR", detail: "it closed the connection" }),
  new UnsupportedOpError({ endpoint, op: "TOP_K", version: "3.0.0" }),
  new RemoteMemoryError({ endpoint, device: "RPC0", sizeBytes: 3 * 2 ** 30 }),
  ...(["load", "context", "tokenize", "decode", "encode"] as const).map(
    (during) => new ModelError({ path: "/models/a.gguf", during, detail: "it is damaged." }),
  ),
  new PlanError({ reason: "does-not-fit", detail: "It does not fit.", missingBytes: 7 }),
  new PlanError({ reason: "unknown-device", detail: "There is no CUDA7." }),
  new EngineStartError({ detail: "no more processes" }),
  new EngineEndedError({ reason: "killed", detail: "" }),
  ...(["cancelled", "no-model", "failed"] as const).map(
    (reason) => new EngineRequestError({ reason, detail: "out of luck" }),
  ),
  new EndpointError({ text: "box", reason: "the port is missing" }),
]

describe.each(examples.map((error) => [error.message, error] as const))("%s", (_, error) => {
  test("is the same after the way through JSON", () => {
    const back = errorFromData(JSON.parse(JSON.stringify(errorToData(error))))
    expect(back.constructor).toBe(error.constructor)
    expect(errorToData(back)).toEqual(errorToData(error))
    expect(back.message).toBe(error.message)
    expect(isClusterError(back)).toBe(true)
  })

  test("is a paragraph that says where", () => {
    expect(error.message).not.toContain("undefined")
    expect(error.message).not.toContain("\n")
    expect(error.message.length).toBeGreaterThan(10)
    if ("endpoint" in error) expect(error.message).toContain(endpoint)
    if ("path" in error) expect(error.message).toContain("/models/a.gguf")
  })
})

test("the data has no stack and no message, which may hold paths of this machine", () => {
  for (const error of examples) {
    const data = errorToData(error)
    expect(data).not.toHaveProperty("stack")
    expect(data).not.toHaveProperty("message")
  }
})

test("data of no known error becomes an EngineRequestError", () => {
  expect(errorFromData({ _tag: "NewError", detail: "something new" })).toEqual(
    new EngineRequestError({ reason: "failed", detail: "something new" }),
  )
  expect(errorFromData({ _tag: "toString" })._tag).toBe("EngineRequestError")
})

test("what is no error of the cluster is told apart", () => {
  for (const other of [new Error("x"), undefined, null, "ConnectError", {}, { _tag: "Other" }]) {
    expect(isClusterError(other)).toBe(false)
  }
})

test("memory is told in MiB, rounded up", () => {
  const error = new RemoteMemoryError({ endpoint, device: "RPC1", sizeBytes: 1024 * 1024 + 1 })
  expect(error.message).toContain("cannot allocate 2 MiB on RPC1")
})
