import { Cursor } from "./Cursor.ts"
import { GgufError } from "./GgufError.ts"
import { readMetadata } from "./metadata.ts"
import type { Source } from "./Source.ts"
import { checkFirstPart } from "./split.ts"
import { alignUp, checkTensorData, readTensorInfos } from "./tensors.ts"
import type { GgufValue, PartContent } from "./types.ts"

// Limits and rules are those of llama.cpp v0.5.0, ggml/src/gguf.cpp and src/llama-model-loader.cpp:
// what passes here loads there, and what fails here gets a better sentence than it would there.
const MAGIC = 0x46554747 // "GGUF", little-endian
const DEFAULT_ALIGNMENT_BYTES = 32
/** Far above any model (the largest have a few thousand): more is a broken header, not a big one. */
const MAX_ENTRIES = 2 ** 20
const MIN_METADATA_BYTES = 8 + 1 + 4 + 1
const MIN_TENSOR_INFO_BYTES = 8 + 4 + 4 + 8

/** Parses a file's header from its start: `part` is its place in the model, 0 the first. */
export const readPart = (source: Source, part: number, arrayLimit: number): PartContent => {
  const cursor = new Cursor(source)
  const version = readVersion(cursor)
  const tensorCount = readCount(cursor, "tensor count", MIN_TENSOR_INFO_BYTES)
  const metadataCount = readCount(cursor, "metadata count", MIN_METADATA_BYTES)
  const metadata = readMetadata(cursor, metadataCount, arrayLimit)
  if (part === 0) checkFirstPart(source, metadata)
  const alignmentBytes = alignmentOf(cursor, metadata)
  const tensors = readTensorInfos(cursor, tensorCount, part)
  const dataOffsetBytes =
    tensorCount === 0 ? cursor.offsetBytes : alignUp(cursor.offsetBytes, alignmentBytes)
  checkTensorData(cursor, tensors, dataOffsetBytes, alignmentBytes)
  return {
    part: { path: source.location, fileBytes: cursor.fileBytes, dataOffsetBytes },
    version,
    alignmentBytes,
    metadata,
    tensors,
  }
}

const readVersion = (cursor: Cursor): 2 | 3 => {
  const notGguf = (found: string) =>
    new GgufError({
      path: cursor.name,
      reason: "not-gguf",
      message: `${cursor.name} is not a GGUF file: ${found}; give a model in GGUF format`,
    })
  if (cursor.fileBytes < 4) throw notGguf(`it has only ${cursor.fileBytes} bytes`)
  const magic = cursor.u32("magic")
  if (magic !== MAGIC) throw notGguf(`it starts with ${magicText(magic)} instead of "GGUF"`)
  const version = cursor.u32("version")
  if (version === 2 || version === 3) return version
  throw new GgufError({
    path: cursor.name,
    reason: "unsupported-version",
    message: versionMessage(cursor.name, version),
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

const readCount = (cursor: Cursor, what: string, minEntryBytes: number): number => {
  const count = cursor.count(what)
  if (count > MAX_ENTRIES) throw cursor.malformed(`its ${what} is ${count}`)
  cursor.expect(count * minEntryBytes, `header (${what} ${count})`)
  return count
}

const alignmentOf = (cursor: Cursor, metadata: ReadonlyMap<string, GgufValue>): number => {
  const value = metadata.get("general.alignment")
  if (value === undefined) return DEFAULT_ALIGNMENT_BYTES
  const powerOfTwo =
    value.type === "uint32" && value.value > 0 && Number.isInteger(Math.log2(value.value))
  if (powerOfTwo) return value.value
  throw cursor.malformed("its general.alignment is not a power of two")
}
