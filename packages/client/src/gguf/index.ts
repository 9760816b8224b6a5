export { GgufError, type GgufErrorReason } from "./GgufError.ts"
export { type LayerBytes, layerBytes } from "./layers.ts"
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
