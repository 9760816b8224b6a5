import { Cursor } from "./Cursor.ts"
import type { Source } from "./Source.ts"
import {
  GGUF_VALUE_SIZE,
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufArrayElement,
  type GgufFile,
  type GgufScalarType,
  type GgufValue,
  type GgufValueType,
} from "./types.ts"

const MAX_ARRAY_ELEMENTS = 2 ** 30
/** Elements ever held in memory; the largest vocabularies have 2^18. */
const MAX_ELEMENTS_READ = 2 ** 23

/** A whole-number metadata value; undefined when absent, of another kind, or beyond 2^53. */
export const ggufInteger = (gguf: GgufFile, key: string): number | undefined =>
  integerOf(gguf.metadata.get(key))

/** A string metadata value; undefined when absent or of another kind. */
export const ggufString = (gguf: GgufFile, key: string): string | undefined => {
  const value = gguf.metadata.get(key)
  return value?.type === "string" ? value.value : undefined
}

export const integerOf = (value: GgufValue | undefined): number | undefined => {
  if (value === undefined || value.type === "array") return undefined
  const number = typeof value.value === "bigint" ? Number(value.value) : value.value
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined
}

export const readMetadata = (
  cursor: Cursor,
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

const readValue = (cursor: Cursor, key: string, arrayLimit: number): GgufValue => {
  const type = readValueType(cursor, key)
  if (type === "array") return readArray(cursor, key, arrayLimit)
  // The pairing of type and value is what `readScalar` does, case by case.
  return { type, value: readScalar(cursor, type, valueName(key)) } as GgufValue
}

const readValueType = (cursor: Cursor, key: string): GgufValueType => {
  const id = cursor.u32(valueName(key))
  const type = GGUF_VALUE_TYPES[id]
  if (type === undefined) {
    throw cursor.malformed(`metadata key ${quote(key)} has the unknown value type ${id}`)
  }
  return type
}

const readArray = (cursor: Cursor, key: string, arrayLimit: number): GgufArray => {
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
  const values = elementsOf(cursor, elementType, length, key)
  return { type: "array", elementType, length, offsetBytes, values }
}

/** The elements of an array that was skipped. Throws `GgufError`. */
export const readElements = (
  source: Source,
  array: GgufArray,
  key: string,
): readonly GgufArrayElement[] => {
  const cursor = new Cursor(source)
  cursor.seek(array.offsetBytes, key)
  return elementsOf(cursor, array.elementType, array.length, key)
}

const checkArrayLength = (
  cursor: Cursor,
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
  cursor: Cursor,
  elementType: GgufScalarType,
  length: number,
  key: string,
): void => {
  const what = valueName(key)
  if (elementType === "string") cursor.skipStrings(length, what)
  else cursor.skip(length * GGUF_VALUE_SIZE[elementType], what)
}

const elementsOf = (
  cursor: Cursor,
  elementType: GgufScalarType,
  length: number,
  key: string,
): GgufArrayElement[] => {
  const what = valueName(key)
  if (length > MAX_ELEMENTS_READ) throw cursor.malformed(`its ${what} has ${length} elements`)
  checkArrayLength(cursor, elementType, length, key)
  const values: GgufArrayElement[] = []
  for (let index = 0; index < length; index++) values.push(readScalar(cursor, elementType, what))
  return values
}

const readScalar = (cursor: Cursor, type: GgufScalarType, what: string): GgufArrayElement => {
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

const valueName = (key: string): string => `metadata value ${quote(key)}`

/** Names come from the file: shown short and without control characters. */
export const quote = (name: string): string =>
  JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name)
