/** GGUF models by name. See README.md for where to start. */
export {
  type CachedModel,
  type CachedModels,
  type CachedPartial,
  listModels,
  type RemovedModel,
  removeModel,
} from "./cached.ts"
export * from "./errors.ts"
export {
  type DownloadProgress,
  type FetchedModel,
  fetchModel,
  type ModelOptions,
  type ModelSource,
  type PeekedModel,
  peekModel,
} from "./models.ts"
