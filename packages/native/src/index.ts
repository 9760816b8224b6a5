export * from "./Batch.ts"
export * from "./bytes.ts"
export { Detokenizer } from "./Detokenizer.ts"
export * as Ggml from "./Ggml.ts"
export type { GraphShare, RefusedOp } from "./graphSurvey.ts"
export * from "./io.ts"
export * as Llama from "./Llama.ts"
export { Model } from "./Llama.ts"
export * from "./LlamaModel.ts"
export * from "./libggml.ts"
export * from "./libllama.ts"
export * from "./libraries.ts"
export * from "./ModelContext.ts"
export type { ModelInfo } from "./ModelInfo.ts"
export * from "./memory.ts"
export * from "./memoryDomain.ts"
export * from "./prebuilt.ts"
export { defaultThreadCount } from "./processor.ts"
export {
  Sampler,
  SamplerError,
  type SamplerName,
  type SamplerOptions,
  samplerNamed,
  samplerNames,
} from "./Sampler.ts"
export * from "./taggedError.ts"
export * from "./tensorRecord.ts"
