/**
 * GGUF files: a model's metadata and tensor list, read from a file or by HTTP ranges, and written. Imports no other
 * workspace. See README.md for where to start.
 */
export { computedTensor, constantTensor, type FloatType } from "./computed.ts"
export { GgufError, type GgufErrorReason } from "./GgufError.ts"
export { GGML_TYPES, type GgmlType } from "./ggmlTypes.ts"
export type { HttpOptions } from "./HttpSource.ts"
export { type LayerBytes, layerBytes } from "./layers.ts"
export { ggufInteger, ggufString } from "./metadata.ts"
export { saveGgufOutline } from "./outline.ts"
export { modelFiles, type PartName, readPartName, writePartName } from "./partNames.ts"
export { type TensorPlace, tensorPlaces } from "./places.ts"
export { SeededRandom, seedFor } from "./random.ts"
export {
  type OpenGgufOptions,
  openGguf,
  openGgufArray,
  type ReadGgufOptions,
  readGguf,
  readGgufArray,
  saveGgufHeader,
} from "./read.ts"
export type {
  GgufArray,
  GgufArrayElement,
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
