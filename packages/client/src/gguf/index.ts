export { GgufError, type GgufErrorReason } from "./GgufError.ts"
export { type LayerBytes, layerBytes } from "./layers.ts"
export { quantize, type WritableType } from "./quantize.ts"
export { computedTensor, constantTensor, randomTensor, SeededRandom, seedFor } from "./random.ts"
export {
  ggufInteger,
  ggufString,
  loadGguf,
  type ReadGgufOptions,
  readGguf,
  readGgufArray,
} from "./read.ts"
export type {
  GgufArray,
  GgufFile,
  GgufPart,
  GgufScalarType,
  GgufTensorInfo,
  GgufValue,
  GgufValueType,
} from "./types.ts"
export {
  type GgufTensorToWrite,
  type GgufToWrite,
  type GgufValueToWrite,
  writeGguf,
} from "./write.ts"
