export * as Cluster from "./Cluster.ts"
export * from "./connection/probe.ts"
export * from "./endpoint.ts"
export type {
  EngineContextOptions,
  EngineDevice,
  GenerateStats,
  LoadStats,
  StopReason,
} from "./engine/messages.ts"
export * from "./errors.ts"
export * from "./gguf/index.ts"
export * from "./parseEndpoint.ts"
export * from "./planner.ts"
