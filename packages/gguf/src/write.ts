import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs"
import { dirname } from "node:path"
import { unwritable } from "./FileSource.ts"
import { GgufError } from "./GgufError.ts"
import { type GgmlType, ggmlTypeByName, tensorSizeBytes } from "./ggmlTypes.ts"
import {
  GGUF_VALUE_SIZE,
  GGUF_VALUE_TYPES,
  type GgufArrayElement,
  type GgufScalarType,
  type GgufValue,
} from "./types.ts"

const VERSION = 3
const ALIGNMENT_BYTES = 32
const CHUNK_BYTES = 4 * 1024 * 1024

/** A metadata value to write; an array brings its elements, all of one type. */
export type GgufValueToWrite =
  | Exclude<GgufValue, { readonly type: "array" }>
  | {
      readonly type: "array"
      readonly elementType: GgufScalarType
      readonly values: readonly GgufArrayElement[]
    }

/** A tensor to write. Its bytes are asked for in pieces of whole rows, from first to last. */
export interface GgufTensorToWrite {
  readonly name: string
  /** ggml type name, such as `"Q8_0"`. */
  readonly type: string
  /** Elements per dimension, `ne[0]` first; 1 to 4 of them. */
  readonly ne: readonly number[]
  /**
   * Fills `target` (2-byte aligned, always whole rows) with the rows from `firstRow` on; rows are
   * counted over all higher dimensions.
   */
  readonly fill: (target: Uint8Array, firstRow: number) => void
}

export interface GgufToWrite {
  readonly metadata: readonly (readonly [key: string, value: GgufValueToWrite])[]
  readonly tensors: readonly GgufTensorToWrite[]
}

/**
 * Writes a GGUF v3 file: under a temporary name beside `path`, renamed when it is whole. Holds one
 * piece of tensor data at a time. Makes missing folders. Throws `GgufError` when the file cannot be
 * written or a tensor cannot exist.
 */
export const writeGguf = (path: string, gguf: GgufToWrite): void => {
  const layouts = gguf.tensors.map((tensor) => layoutOf(path, tensor))
  try {
    mkdirSync(dirname(path), { recursive: true })
    writeThenRename(path, gguf, layouts)
  } catch (cause) {
    throw isSystemError(cause) ? unwritable(path, cause) : cause
  }
}

/**
 * A file's start and its size, of a model whose weights nobody reads; undefined for a tensor of a type that cannot be written.
 */
export const encodeOutline = (gguf: {
  readonly metadata: GgufToWrite["metadata"]
  readonly tensors: readonly TensorShape[]
}): { readonly header: Uint8Array; readonly fileBytes: number } | undefined => {
  const layouts = gguf.tensors.map(layoutIfAny)
  if (!layouts.every((layout) => layout !== undefined)) return undefined
  const header = encodeHeader(gguf.metadata, layouts)
  const weightBytes = layouts.reduce((sum, { sizeBytes }) => sum + alignUp(sizeBytes), 0)
  return { header, fileBytes: header.byteLength + weightBytes }
}

const writeThenRename = (
  path: string,
  gguf: GgufToWrite,
  layouts: readonly TensorLayout[],
): void => {
  const temporary = `${path}.${process.pid}.tmp`
  try {
    writeAll(temporary, gguf, layouts)
    renameSync(temporary, path)
  } catch (cause) {
    rmSync(temporary, { force: true })
    throw cause
  }
}

type TensorShape = Omit<GgufTensorToWrite, "fill">

interface TensorLayout<Tensor extends TensorShape = GgufTensorToWrite> {
  readonly tensor: Tensor
  readonly typeId: number
  readonly rowBytes: number
  readonly sizeBytes: number
}

const layoutOf = (path: string, tensor: GgufTensorToWrite): TensorLayout => {
  const layout = layoutIfAny(tensor)
  if (layout !== undefined) return layout
  throw new GgufError({
    path,
    reason: "malformed",
    message: `${path}: tensor ${tensor.name} cannot be ${tensor.type} of shape ${tensor.ne.join("x")}`,
  })
}

const layoutIfAny = <Tensor extends TensorShape>(
  tensor: Tensor,
): TensorLayout<Tensor> | undefined => {
  const type = ggmlTypeByName(tensor.type)
  const sizeBytes = type === undefined ? undefined : tensorSizeBytes(tensor.ne, type)
  const shaped = tensor.ne.length >= 1 && tensor.ne.length <= 4 && tensor.ne.every(isCount)
  if (type === undefined || sizeBytes === undefined || !shaped) return undefined
  return { tensor, typeId: type.id, rowBytes: rowBytesOf(tensor.ne, type), sizeBytes }
}

const isCount = (count: number): boolean => Number.isSafeInteger(count) && count > 0

const rowBytesOf = (ne: readonly number[], type: GgmlType): number =>
  (ne[0]! / type.blockSize) * type.typeSize

const writeAll = (path: string, gguf: GgufToWrite, layouts: readonly TensorLayout[]): void => {
  const fd = openSync(path, "w")
  try {
    writeFully(fd, encodeHeader(gguf.metadata, layouts))
    const chunk = new Uint8Array(CHUNK_BYTES)
    for (const layout of layouts) writeTensor(fd, layout, chunk)
  } finally {
    closeSync(fd)
  }
}

const writeTensor = (fd: number, layout: TensorLayout, shared: Uint8Array): void => {
  const { tensor, rowBytes, sizeBytes } = layout
  const rowCount = sizeBytes / rowBytes
  const chunk = rowBytes > shared.byteLength ? new Uint8Array(rowBytes) : shared
  const rowsPerChunk = Math.floor(chunk.byteLength / rowBytes)
  for (let row = 0; row < rowCount; row += rowsPerChunk) {
    const piece = chunk.subarray(0, Math.min(rowsPerChunk, rowCount - row) * rowBytes)
    tensor.fill(piece, row)
    writeFully(fd, piece)
  }
  writeFully(fd, new Uint8Array(alignUp(sizeBytes) - sizeBytes))
}

const writeFully = (fd: number, bytes: Uint8Array): void => {
  for (let done = 0; done < bytes.byteLength; ) done += writeSync(fd, bytes, done)
}

const encodeHeader = (
  metadata: GgufToWrite["metadata"],
  layouts: readonly TensorLayout<TensorShape>[],
): Uint8Array => {
  const out = new ByteWriter()
  out.ascii("GGUF")
  out.u32(VERSION)
  out.u64(layouts.length)
  out.u64(metadata.length)
  for (const [key, value] of metadata) {
    out.string(key)
    writeValue(out, value)
  }
  let offsetBytes = 0
  for (const layout of layouts) {
    writeTensorInfo(out, layout, offsetBytes)
    offsetBytes += alignUp(layout.sizeBytes)
  }
  out.zeros(alignUp(out.sizeBytes) - out.sizeBytes)
  return out.bytes()
}

const writeTensorInfo = (
  out: ByteWriter,
  layout: TensorLayout<TensorShape>,
  offsetBytes: number,
): void => {
  out.string(layout.tensor.name)
  out.u32(layout.tensor.ne.length)
  for (const count of layout.tensor.ne) out.u64(count)
  out.u32(layout.typeId)
  out.u64(offsetBytes)
}

const writeValue = (out: ByteWriter, value: GgufValueToWrite): void => {
  out.u32(GGUF_VALUE_TYPES.indexOf(value.type))
  if (value.type !== "array") {
    out.scalar(value.type, value.value)
    return
  }
  out.u32(GGUF_VALUE_TYPES.indexOf(value.elementType))
  out.u64(value.values.length)
  for (const element of value.values) out.scalar(value.elementType, element)
}

const alignUp = (sizeBytes: number): number =>
  Math.ceil(sizeBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES

const isSystemError = (cause: unknown): boolean =>
  cause instanceof Error && "code" in cause && typeof cause.code === "string"

/** Little-endian bytes in a buffer that grows; a header with its vocabulary, never weights. */
class ByteWriter {
  private buffer = new Uint8Array(64 * 1024)
  private readonly scratch = new DataView(new ArrayBuffer(8))
  private readonly encoder = new TextEncoder()
  sizeBytes = 0

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.sizeBytes)
  }

  ascii(text: string): void {
    this.append(this.encoder.encode(text))
  }

  string(text: string): void {
    const bytes = this.encoder.encode(text)
    this.u64(bytes.byteLength)
    this.append(bytes)
  }

  zeros(count: number): void {
    this.append(new Uint8Array(count))
  }

  u32(value: number): void {
    this.scalar("uint32", value)
  }

  u64(value: number): void {
    this.scalar("uint64", value)
  }

  scalar(type: GgufScalarType, value: GgufArrayElement): void {
    if (type === "string") {
      this.string(String(value))
      return
    }
    ENCODE[type](this.scratch, value)
    this.append(new Uint8Array(this.scratch.buffer, 0, GGUF_VALUE_SIZE[type]))
  }

  private append(bytes: Uint8Array): void {
    const sizeBytes = this.sizeBytes + bytes.byteLength
    if (sizeBytes > this.buffer.byteLength) {
      const larger = new Uint8Array(2 * sizeBytes)
      larger.set(this.bytes())
      this.buffer = larger
    }
    this.buffer.set(bytes, this.sizeBytes)
    this.sizeBytes = sizeBytes
  }
}

const ENCODE: Record<
  Exclude<GgufScalarType, "string">,
  (view: DataView, value: GgufArrayElement) => void
> = {
  uint8: (view, value) => view.setUint8(0, Number(value)),
  int8: (view, value) => view.setInt8(0, Number(value)),
  uint16: (view, value) => view.setUint16(0, Number(value), true),
  int16: (view, value) => view.setInt16(0, Number(value), true),
  uint32: (view, value) => view.setUint32(0, Number(value), true),
  int32: (view, value) => view.setInt32(0, Number(value), true),
  float32: (view, value) => view.setFloat32(0, Number(value), true),
  bool: (view, value) => view.setUint8(0, value ? 1 : 0),
  uint64: (view, value) => view.setBigUint64(0, BigInt(value), true),
  int64: (view, value) => view.setBigInt64(0, BigInt(value), true),
  float64: (view, value) => view.setFloat64(0, Number(value), true),
}
