export * from "@ggml-rpc/gguf"
export { type Endpoint, EndpointError, formatEndpoint } from "@ggml-rpc/protocol"
export * as Cluster from "./Cluster.ts"
export * from "./connection/probe.ts"
export type {
  EngineContextOptions,
  EngineDevice,
  GenerateStats,
  LoadStats,
  StopReason,
} from "./engine/messages.ts"
export * from "./errors.ts"
export { loadGguf } from "./loadGguf.ts"
export * from "./parseEndpoint.ts"
export * from "./planner/index.ts"
