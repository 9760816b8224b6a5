export * from "@ggml-rpc/gguf"
export {
  type Endpoint,
  EndpointError,
  formatEndpoint,
  formatVersion,
  type Version,
} from "@ggml-rpc/protocol"
export * as Cluster from "./Cluster.ts"
export type { ServerKind } from "./connection/hello.ts"
export * from "./connection/probe.ts"
export type { CacheStatus, StatusReport } from "./connection/statusReport.ts"
export type {
  EngineContextOptions,
  EngineDevice,
  EngineServer,
  GenerateSettings,
  GenerateStats,
  LinkSpeed,
  LinkTraffic,
  LoadStats,
  NgramOptions,
  SlotState,
  StopReason,
  TokenLogprob,
  TokenLogprobs,
} from "./engine/messages.ts"
export * from "./errors.ts"
export type { CutShares, SplitChoice } from "./fasterSplit.ts"
export { describeExactServers, type LackingServer } from "./lacking.ts"
export { loadGguf } from "./loadGguf.ts"
export { loadModelHeader } from "./loadModelHeader.ts"
export { type DomainFacts, domainsOf } from "./memoryDomains.ts"
export { type Normalization, normalized } from "./normalized.ts"
export * from "./parseEndpoint.ts"
export * from "./planner/index.ts"
export { describeUnsupported, type PlanUnsupported } from "./unsupported.ts"
