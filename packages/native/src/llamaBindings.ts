/**
 * What `bindings.ts` has, and libllama with it: models, contexts, samplers without Effect. Imported as
 * `@ggml-rpc/native/bindings/llama`.
 */

export * from "./Batch.ts"
export * from "./bindings.ts"
export { Detokenizer } from "./Detokenizer.ts"
export { findsCandidates } from "./DeviceCandidates.ts"
export type { GraphShare, RefusedOp } from "./graphSurvey.ts"
export * from "./LlamaModel.ts"
export * from "./ModelContext.ts"
export type { ModelInfo } from "./ModelInfo.ts"
export { MOST_FOUND } from "./ReadCandidates.ts"
export {
  Sampler,
  SamplerError,
  type SamplerName,
  type SamplerOptions,
  samplerNamed,
  samplerNames,
} from "./Sampler.ts"
