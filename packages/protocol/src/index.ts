/**
 * The ggml RPC wire protocol: messages, tensors, graphs, framing, versions and the hash of the tensor cache; and the text
 * of endpoints. Pure TypeScript that imports nothing. Bytes and values that are wrong are a `ProtocolError`, texts that
 * are no endpoint an `EndpointError`. See README.md for where to start.
 *
 * Facts about the wire come from ggml/src/ggml-rpc of llama.cpp's releases; which, is said with each.
 */

export * from "./codec/graph.ts"
export * from "./codec/header.ts"
export type { PayloadCodec } from "./codec/payload.ts"
export * from "./codec/record.ts"
export * from "./codec/tensor.ts"
export * from "./codec/types.ts"
export * from "./codec/u64.ts"
export * from "./commands.ts"
export * from "./Dialect.ts"
export * from "./endpoint.ts"
export * from "./enums.ts"
export * from "./errors.ts"
export * from "./extension.ts"
export * from "./fnv1a64.ts"
export * from "./frame.ts"
export * from "./messages.ts"
export * from "./versions/index.ts"
export * from "./versions/layouts/buffer.ts"
export * from "./versions/layouts/comm.ts"
export * from "./versions/layouts/device.ts"
export * from "./versions/layouts/hello.ts"
export * from "./versions/layouts/tensor.ts"
export {
  commonNumbering,
  type GluOpName,
  type Numbering,
  type OpName,
  type TypeName,
  type UnaryOpName,
} from "./versions/numbering.ts"
export {
  type CommandSpec,
  type CommandTable,
  formatVersion,
  type ParamFill,
  type ParamLimit,
  type ProtocolFeatures,
  type ProtocolSpec,
  type Requests,
  type Responses,
  type SourceLimit,
  STORED_GRAPH_COUNTS,
  shortVersion,
  type Version,
} from "./versions/spec.ts"
