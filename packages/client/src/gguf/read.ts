import { closeSync, openSync, type Stats, statSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import { causeText, FileCursor } from "./FileCursor.ts"
import { GgufError } from "./GgufError.ts"
import { ggmlTypeById, tensorSizeBytes } from "./ggmlTypes.ts"
import {
  GGUF_VALUE_SIZE,
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufFile,
  type GgufPart,
  type GgufScalarType,
  type GgufTensorInfo,
  type GgufValue,
  type GgufValueType,
} from "./types.ts"

// Limits and rules are those of llama.cpp v0.5.0, ggml/src/gguf.cpp and src/llama-model-loader.cpp:
// what passes here loads there, and what fails here gets a better sentence than it would there.
const MAGIC = 0x46554747 // "GGUF", little-endian
const DEFAULT_ALIGNMENT_BYTES = 32
const MAX_TENSOR_NAME_BYTES = 63
const MAX_DIMENSIONS = 4
const MAX_ARRAY_ELEMENTS = 2 ** 30
/** Elements ever held in memory; the largest vocabularies have 2^18. */
const MAX_ELEMENTS_READ = 2 ** 23
/** Far above any model (the largest have a few thousand): more is a broken header, not a big one. */
const MAX_ENTRIES = 2 ** 20
const MIN_METADATA_BYTES = 8 + 1 + 4 + 1
const MIN_TENSOR_INFO_BYTES = 8 + 4 + 4 + 8

export interface ReadGgufOptions {
  /**
   * Arrays of more elements than this are skipped: only their type, length and place are kept.
   * Default 1024, which leaves out vocabularies and keeps per-layer values.
   */
  readonly arrayLimit?: number
}

/**
 * Reads a GGUF v2 or v3 model's metadata and tensor list, never its weights. For a split model, name
 * the first part (`…-00001-of-0000N.gguf`): the others are found beside it.
 * Throws `GgufError`.
 */
export const readGguf = (path: string, options: ReadGgufOptions = {}): GgufFile => {
  const arrayLimit = options.arrayLimit ?? 1024
  const first = readPart(path, 0, arrayLimit)
  const partCount = integerOf(first.metadata.get("split.count")) ?? 1
  const rest = partCount > 1 ? readOtherParts(first, partCount, arrayLimit) : []
  const all = [first, ...rest]
  const tensors = all.flatMap((part) => part.tensors)
  if (partCount > 1) checkWholeSplit(first, tensors)
  return {
    path,
    version: first.version,
    alignmentBytes: first.alignmentBytes,
    metadata: first.metadata,
    tensors,
    parts: all.map((part) => part.part),
    tensorBytes: tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
  }
}

/** `readGguf` as an effect. */
export const loadGguf = (
  path: string,
  options?: ReadGgufOptions,
): Effect.Effect<GgufFile, GgufError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(readGguf(path, options))
    } catch (error) {
      return error instanceof GgufError ? Effect.fail(error) : Effect.die(error)
    }
  })

/**
 * The elements of a metadata array of the first part, read from the file if `readGguf` skipped it.
 * Undefined when the key is absent or no array. Throws `GgufError`.
 */
export const readGgufArray = (
  gguf: GgufFile,
  key: string,
): readonly (number | bigint | boolean | string)[] | undefined => {
  const value = gguf.metadata.get(key)
  if (value === undefined || value.type !== "array") return undefined
  if (value.values !== undefined) return value.values
  return withCursor(gguf.path, (cursor) => {
    cursor.seek(value.offsetBytes, key)
    return readElements(cursor, value.elementType, value.length, key)
  })
}

/** A whole-number metadata value; undefined when absent, of another kind, or beyond 2^53. */
export const ggufInteger = (gguf: GgufFile, key: string): number | undefined =>
  integerOf(gguf.metadata.get(key))

/** A string metadata value; undefined when absent or of another kind. */
export const ggufString = (gguf: GgufFile, key: string): string | undefined => {
  const value = gguf.metadata.get(key)
  return value?.type === "string" ? value.value : undefined
}

interface PartContent {
  readonly part: GgufPart
  readonly version: 2 | 3
  readonly alignmentBytes: number
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly GgufTensorInfo[]
}

const readPart = (path: string, part: number, arrayLimit: number): PartContent =>
  withCursor(path, (cursor) => {
    const version = readVersion(cursor)
    const tensorCount = readCount(cursor, "tensor count", MIN_TENSOR_INFO_BYTES)
    const metadataCount = readCount(cursor, "metadata count", MIN_METADATA_BYTES)
    const metadata = readMetadata(cursor, metadataCount, arrayLimit)
    if (part === 0) checkFirstPart(path, metadata)
    const alignmentBytes = alignmentOf(cursor, metadata)
    const tensors = readTensorInfos(cursor, tensorCount, part)
    const dataOffsetBytes =
      tensorCount === 0 ? cursor.offsetBytes : alignUp(cursor.offsetBytes, alignmentBytes)
    checkTensorData(cursor, tensors, dataOffsetBytes, alignmentBytes)
    return {
      part: { path, fileBytes: cursor.fileBytes, dataOffsetBytes },
      version,
      alignmentBytes,
      metadata,
      tensors,
    }
  })

const withCursor = <A>(path: string, read: (cursor: FileCursor) => A): A => {
  const fileBytes = regularFileBytes(path)
  const fd = openForReading(path)
  try {
    return read(new FileCursor(path, fd, fileBytes))
  } finally {
    closeSync(fd)
  }
}

/** Asked before opening: opening a named pipe would wait for its writer. */
const regularFileBytes = (path: string): number => {
  const stats = statOf(path)
  if (stats.isFile()) return stats.size
  const kind = stats.isDirectory() ? "a directory" : "not a regular file"
  throw new GgufError({
    path,
    reason: "unreadable",
    message: `${path} is ${kind}; give the path of a .gguf file`,
  })
}

const statOf = (path: string): Stats => {
  try {
    return statSync(path)
  } catch (cause) {
    throw openFailure(path, cause)
  }
}

const openForReading = (path: string): number => {
  try {
    return openSync(path, "r")
  } catch (cause) {
    throw openFailure(path, cause)
  }
}

const openFailure = (path: string, cause: unknown): GgufError => {
  const code = causeText(cause)
  const missing = code === "ENOENT" || code === "ENOTDIR"
  return new GgufError({
    path,
    reason: missing ? "missing" : "unreadable",
    message: missing
      ? `There is no file '${path}'; check the path`
      : `${path} cannot be opened (${code}); check its permissions`,
  })
}

const readVersion = (cursor: FileCursor): 2 | 3 => {
  const notGguf = (found: string) =>
    new GgufError({
      path: cursor.path,
      reason: "not-gguf",
      message: `${cursor.path} is not a GGUF file: ${found}; give a model in GGUF format`,
    })
  if (cursor.fileBytes < 4) throw notGguf(`it has only ${cursor.fileBytes} bytes`)
  const magic = cursor.u32("magic")
  if (magic !== MAGIC) throw notGguf(`it starts with ${magicText(magic)} instead of "GGUF"`)
  const version = cursor.u32("version")
  if (version === 2 || version === 3) return version
  throw new GgufError({
    path: cursor.path,
    reason: "unsupported-version",
    message: versionMessage(cursor.path, version),
  })
}

/** The first four bytes as text where they are printable, else in hexadecimal. */
const magicText = (magic: number): string => {
  const bytes = [0, 8, 16, 24].map((shift) => (magic >>> shift) & 0xff)
  if (bytes.every((byte) => byte >= 0x20 && byte < 0x7f)) {
    return `"${String.fromCharCode(...bytes)}"`
  }
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")
}

const versionMessage = (path: string, version: number): string => {
  // A version whose low half is zero is a small number in the other byte order, as upstream tells.
  if (version !== 0 && (version & 0xffff) === 0) {
    return `${path} is a big-endian GGUF file, which this machine cannot run; download the little-endian one`
  }
  const advice =
    version > 3 ? "update ggml-rpc or use an older conversion" : "convert the model again"
  return `${path} is GGUF version ${version}, but versions 2 and 3 are supported; ${advice}`
}

const readCount = (cursor: FileCursor, what: string, minEntryBytes: number): number => {
  const count = cursor.count(what)
  if (count > MAX_ENTRIES) throw cursor.malformed(`its ${what} is ${count}`)
  cursor.expect(count * minEntryBytes, `header (${what} ${count})`)
  return count
}

const readMetadata = (
  cursor: FileCursor,
  count: number,
  arrayLimit: number,
): ReadonlyMap<string, GgufValue> => {
  const metadata = new Map<string, GgufValue>()
  for (let index = 0; index < count; index++) {
    const key = cursor.string("metadata key")
    if (key === "") throw cursor.malformed(`metadata key ${index} is empty`)
    if (metadata.has(key)) throw cursor.malformed(`metadata key ${quote(key)} appears twice`)
    metadata.set(key, readValue(cursor, key, arrayLimit))
  }
  return metadata
}

const readValue = (cursor: FileCursor, key: string, arrayLimit: number): GgufValue => {
  const type = readValueType(cursor, key)
  if (type === "array") return readArray(cursor, key, arrayLimit)
  // The pairing of type and value is what `readScalar` does, case by case.
  return { type, value: readScalar(cursor, type, valueName(key)) } as GgufValue
}

const readValueType = (cursor: FileCursor, key: string): GgufValueType => {
  const id = cursor.u32(valueName(key))
  const type = GGUF_VALUE_TYPES[id]
  if (type === undefined) {
    throw cursor.malformed(`metadata key ${quote(key)} has the unknown value type ${id}`)
  }
  return type
}

const readArray = (cursor: FileCursor, key: string, arrayLimit: number): GgufArray => {
  const elementType = readValueType(cursor, key)
  if (elementType === "array") {
    throw cursor.malformed(`metadata key ${quote(key)} is an array of arrays`)
  }
  const length = cursor.count(`${valueName(key)} (length)`)
  checkArrayLength(cursor, elementType, length, key)
  const offsetBytes = cursor.offsetBytes
  if (length > arrayLimit) {
    skipElements(cursor, elementType, length, key)
    return { type: "array", elementType, length, offsetBytes }
  }
  const values = readElements(cursor, elementType, length, key)
  return { type: "array", elementType, length, offsetBytes, values }
}

const checkArrayLength = (
  cursor: FileCursor,
  elementType: GgufScalarType,
  length: number,
  key: string,
): void => {
  if (length > MAX_ARRAY_ELEMENTS) {
    throw cursor.malformed(`metadata key ${quote(key)} announces ${length} elements`)
  }
  cursor.expect(length * minElementBytes(elementType), valueName(key))
}

/** A string takes at least its length field. */
const minElementBytes = (type: GgufScalarType): number =>
  type === "string" ? 8 : GGUF_VALUE_SIZE[type]

const skipElements = (
  cursor: FileCursor,
  elementType: GgufScalarType,
  length: number,
  key: string,
): void => {
  const what = valueName(key)
  if (elementType !== "string") {
    cursor.skip(length * GGUF_VALUE_SIZE[elementType], what)
    return
  }
  for (let index = 0; index < length; index++) cursor.skipString(what)
}

const readElements = (
  cursor: FileCursor,
  elementType: GgufScalarType,
  length: number,
  key: string,
): (number | bigint | boolean | string)[] => {
  const what = valueName(key)
  if (length > MAX_ELEMENTS_READ) throw cursor.malformed(`its ${what} has ${length} elements`)
  checkArrayLength(cursor, elementType, length, key)
  const values: (number | bigint | boolean | string)[] = []
  for (let index = 0; index < length; index++) values.push(readScalar(cursor, elementType, what))
  return values
}

const readScalar = (
  cursor: FileCursor,
  type: GgufScalarType,
  what: string,
): number | bigint | boolean | string => {
  switch (type) {
    case "uint8":
      return cursor.u8(what)
    case "int8":
      return cursor.i8(what)
    case "uint16":
      return cursor.u16(what)
    case "int16":
      return cursor.i16(what)
    case "uint32":
      return cursor.u32(what)
    case "int32":
      return cursor.i32(what)
    case "float32":
      return cursor.f32(what)
    case "bool":
      return cursor.u8(what) !== 0
    case "string":
      return cursor.string(what)
    case "uint64":
      return cursor.u64(what)
    case "int64":
      return cursor.i64(what)
    case "float64":
      return cursor.f64(what)
  }
}

const alignmentOf = (cursor: FileCursor, metadata: ReadonlyMap<string, GgufValue>): number => {
  const value = metadata.get("general.alignment")
  if (value === undefined) return DEFAULT_ALIGNMENT_BYTES
  const powerOfTwo =
    value.type === "uint32" && value.value > 0 && Number.isInteger(Math.log2(value.value))
  if (powerOfTwo) return value.value
  throw cursor.malformed("its general.alignment is not a power of two")
}

const readTensorInfos = (
  cursor: FileCursor,
  count: number,
  part: number,
): readonly GgufTensorInfo[] => {
  const tensors: GgufTensorInfo[] = []
  const names = new Set<string>()
  for (let index = 0; index < count; index++) {
    const tensor = readTensorInfo(cursor, index, part)
    if (names.has(tensor.name)) {
      throw cursor.malformed(`tensor ${quote(tensor.name)} appears twice`)
    }
    names.add(tensor.name)
    tensors.push(tensor)
  }
  return tensors
}

const readTensorInfo = (cursor: FileCursor, index: number, part: number): GgufTensorInfo => {
  const name = readTensorName(cursor, index)
  const what = `tensor list (${quote(name)})`
  const dimensionCount = cursor.u32(what)
  if (dimensionCount > MAX_DIMENSIONS) {
    throw cursor.malformed(`tensor ${quote(name)} has ${dimensionCount} dimensions`)
  }
  const ne: [number, number, number, number] = [1, 1, 1, 1]
  for (let dimension = 0; dimension < dimensionCount; dimension++)
    ne[dimension] = cursor.count(what)
  const typeId = cursor.u32(what)
  const type = ggmlTypeById(typeId)
  if (type === undefined) {
    throw cursor.malformed(`tensor ${quote(name)} has the unknown type ${typeId}`)
  }
  const offsetBytes = cursor.count(what)
  const sizeBytes = tensorSizeBytes(ne, type)
  if (sizeBytes === undefined) {
    throw cursor.malformed(
      `tensor ${quote(name)} of shape ${ne.join("x")} is impossible for type ${type.name}`,
    )
  }
  return { name, typeId, typeName: type.name, ne, dimensionCount, offsetBytes, sizeBytes, part }
}

const readTensorName = (cursor: FileCursor, index: number): string => {
  const start = cursor.offsetBytes
  const name = cursor.string(`tensor list (name ${index})`)
  const nameBytes = cursor.offsetBytes - start - 8
  if (nameBytes > MAX_TENSOR_NAME_BYTES) {
    throw cursor.malformed(`tensor name ${index} is ${nameBytes} bytes long`)
  }
  return name
}

/** Tensor data follows in the list's order, each start padded, and lies wholly in the file. */
const checkTensorData = (
  cursor: FileCursor,
  tensors: readonly GgufTensorInfo[],
  dataOffsetBytes: number,
  alignmentBytes: number,
): void => {
  let expected = 0
  let end = 0
  for (const tensor of tensors) {
    if (tensor.offsetBytes !== expected) {
      throw cursor.malformed(
        `the data of tensor ${quote(tensor.name)} is said to start at ${tensor.offsetBytes} instead of ${expected}`,
      )
    }
    end = expected + tensor.sizeBytes
    expected = alignUp(end, alignmentBytes)
    if (!Number.isSafeInteger(dataOffsetBytes + expected)) {
      throw cursor.malformed(`tensor ${quote(tensor.name)} ends beyond 2^53 bytes`)
    }
  }
  const neededBytes = dataOffsetBytes + end
  if (neededBytes > cursor.fileBytes) throw dataTruncated(cursor, neededBytes)
}

const dataTruncated = (cursor: FileCursor, neededBytes: number): GgufError =>
  new GgufError({
    path: cursor.path,
    reason: "truncated",
    message:
      `${cursor.path} is truncated: ${neededBytes - cursor.fileBytes} of ${neededBytes} bytes are ` +
      "missing; download or copy it again",
  })

// Addition and remainder, not bit operations: offsets pass 2^32.
const alignUp = (offsetBytes: number, alignmentBytes: number): number => {
  const over = offsetBytes % alignmentBytes
  return over === 0 ? offsetBytes : offsetBytes + alignmentBytes - over
}

/** libllama wants the first part of a split model, so we name it. */
const checkFirstPart = (path: string, metadata: ReadonlyMap<string, GgufValue>): void => {
  const partCount = integerOf(metadata.get("split.count")) ?? 1
  const index = integerOf(metadata.get("split.no")) ?? 0
  if (partCount <= 1 || index === 0) return
  const prefix = splitPrefix(path, index, partCount)
  const advice =
    prefix === undefined ? "give the first part" : `give ${partPath(prefix, 0, partCount)}`
  throw new GgufError({
    path,
    reason: "not-first-part",
    message: `${path} is part ${index + 1} of ${partCount} of a split model; ${advice}`,
  })
}

const readOtherParts = (
  first: PartContent,
  partCount: number,
  arrayLimit: number,
): readonly PartContent[] => {
  const path = first.part.path
  const prefix = partCount <= 0xffff ? splitPrefix(path, 0, partCount) : undefined
  if (prefix === undefined) {
    throw new GgufError({
      path,
      reason: "malformed",
      message:
        `${path} is the first of ${partCount} parts, but its name does not say so; ` +
        `rename it to …${partSuffix(0, partCount)} beside the other parts`,
    })
  }
  const parts: PartContent[] = []
  for (let index = 1; index < partCount; index++) {
    parts.push(
      readLaterPart(path, partPath(prefix, index, partCount), index, partCount, arrayLimit),
    )
  }
  return parts
}

const readLaterPart = (
  firstPath: string,
  path: string,
  index: number,
  partCount: number,
  arrayLimit: number,
): PartContent => {
  const content = readPartOf(firstPath, path, index, partCount, arrayLimit)
  if (integerOf(content.metadata.get("split.no")) === index) return content
  throw new GgufError({
    path,
    reason: "malformed",
    message: `${path} is not part ${index + 1} of the model of ${firstPath}; download that part again`,
  })
}

const readPartOf = (
  firstPath: string,
  path: string,
  index: number,
  partCount: number,
  arrayLimit: number,
): PartContent => {
  try {
    return readPart(path, index, arrayLimit)
  } catch (error) {
    if (!(error instanceof GgufError) || error.reason !== "missing") throw error
    throw new GgufError({
      path,
      reason: "missing",
      message: `${firstPath} needs part ${index + 1} of ${partCount}, but there is no file ${path}; download that part`,
    })
  }
}

const checkWholeSplit = (first: PartContent, tensors: readonly GgufTensorInfo[]): void => {
  const malformed = (detail: string) =>
    new GgufError({
      path: first.part.path,
      reason: "malformed",
      message: `The parts of ${first.part.path} do not belong together: ${detail}; download them again`,
    })
  const announced = integerOf(first.metadata.get("split.tensors.count"))
  if (announced !== undefined && announced !== tensors.length) {
    throw malformed(`${announced} tensors are announced and ${tensors.length} are there`)
  }
  const names = new Set<string>()
  for (const { name } of tensors) {
    if (names.has(name)) throw malformed(`tensor ${quote(name)} appears twice`)
    names.add(name)
  }
}

const partSuffix = (index: number, partCount: number): string =>
  `-${String(index + 1).padStart(5, "0")}-of-${String(partCount).padStart(5, "0")}.gguf`

const partPath = (prefix: string, index: number, partCount: number): string =>
  prefix + partSuffix(index, partCount)

const splitPrefix = (path: string, index: number, partCount: number): string | undefined => {
  const suffix = partSuffix(index, partCount)
  const name = basename(path)
  if (!name.endsWith(suffix) || name === suffix) return undefined
  return join(dirname(path), name.slice(0, -suffix.length))
}

const integerOf = (value: GgufValue | undefined): number | undefined => {
  if (value === undefined || value.type === "array") return undefined
  const number = typeof value.value === "bigint" ? Number(value.value) : value.value
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined
}

const valueName = (key: string): string => `metadata value ${quote(key)}`

/** Names come from the file: shown short and without control characters. */
const quote = (name: string): string =>
  JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name)
