/**
 * The bindings alone, without Effect and the build: what a process that runs one synchronous loop
 * imports as `@ggml-rpc/native/bindings`, to stay small and start fast.
 */
export * from "./bytes.ts"
export * from "./io.ts"
export * from "./libggml.ts"
export * from "./libraries.ts"
export { llamaCacheFolder } from "./llamaCache.ts"
export * from "./memory.ts"
export * from "./memoryDomain.ts"
export { Pump, type PumpedSocket } from "./Pump.ts"
export { userCacheFolder, useUnpacked } from "./prebuilt.ts"
export { defaultThreadCount } from "./processor.ts"
export * from "./taggedError.ts"
export { hashOf } from "./weights/hash.ts"
export { WeightFile, type WeightPlace } from "./weights/WeightFile.ts"
export {
  fileState,
  isRememberable,
  modelState,
  type WeightHash,
  WeightHashes,
  type WeightSlice,
  type WeightSource,
} from "./weights/WeightHashes.ts"
