/**
 * The ggml RPC wire protocol: messages, tensors, graphs, framing, versions and the hash of the tensor cache. Pure
 * TypeScript that imports nothing; every failure is a `ProtocolError`. See README.md for where to start.
 *
 * Facts about the wire come from llama.cpp v0.5.0, ggml/src/ggml-rpc (protocol 7.0.0).
 */

export * from "./commands.ts"
export * from "./endpoint.ts"
export * from "./enums.ts"
export * from "./errors.ts"
export * from "./fnv1a64.ts"
export * from "./frame.ts"
export * from "./graph.ts"
export * from "./messages.ts"
export type { PayloadCodec } from "./payload.ts"
export * from "./record.ts"
export * from "./tensor.ts"
export * from "./v7/buffer.ts"
export * from "./v7/device.ts"
export * from "./v7/hello.ts"
export * from "./v7/spec.ts"
export * from "./v7/tensor.ts"
export * from "./version.ts"
