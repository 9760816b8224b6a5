/**
 * Which rows of a weight a device gets where tensors are cut over several: ggml's meta device tells none of its devices
 * (ggml-backend-meta.cpp `ggml_backend_meta_buffer_set_tensor`, v0.5.0), but gives them out in their order, without gaps.
 */
import type { WeightSlice } from "@ggml-rpc/native/bindings"
import { RpcTensor } from "@ggml-rpc/protocol"

/** A weight's part on one device. */
interface Part {
  readonly sizeBytes: number
  /** Encoded as the protocol's tensor. */
  readonly record: Uint8Array
}

/**
 * How libllama divides a weight where it cuts tensors: by its rows, in one run along an axis, or in segments one after the other, each along
 * the axis, so that a device gets several runs; or not the rows but every value.
 */
export type Division = "rows" | "segments" | "values"

/** What libllama cuts in segments whatever its shape, or may (llama-model.cpp `get_split_segments`, v0.5.0). */
const SEGMENTED =
  /\.(attn_qkv|attn_gate|ffn_gate_up(_exps)?|ssm_(conv1d|out|dt|a|alpha|beta))(\.|$)/

/** Of which each device adds its share to a partial sum (llama-model.cpp, ggml-backend-meta.cpp: GGML_BACKEND_SPLIT_AXIS_PARTIAL, v0.5.0). */
const DIVIDED = /\.ffn_down_exps\.bias$/

/** Of a weight of a model whose tensors are cut; `parts` has the devices' parts of all its weights, by their names. */
export const divisionOf = (name: string, parts: ReadonlyMap<string, readonly Part[]>): Division => {
  if (DIVIDED.test(name)) return "values"
  return SEGMENTED.test(name) || isFusedUp(name, parts) ? "segments" : "rows"
}

const UP = /\.ffn_up((?:_exps)?)\.(weight|bias)$/

/** Whether it is gate and up in one, as Phi 3's: then it has twice the rows that the layer's down projection has columns. */
const isFusedUp = (name: string, parts: ReadonlyMap<string, readonly Part[]>): boolean => {
  const found = UP.exec(name)
  if (found === null) return false
  const down = parts.get(name.replace(UP, ".ffn_down$1.weight"))
  const lengthOf = (of: readonly Part[], axis: number): number =>
    of.reduce((sum, part) => sum + shapeOf(part)[axis]!, 0)
  const rowCount = lengthOf(parts.get(name)!, found[2] === "bias" ? 0 : 1)
  return down !== undefined && rowCount === 2 * lengthOf(down, 0)
}

/** Axes along which a weight is cut: all but the last one, which numbers whole tensors. */
const AXIS_COUNT = 3

/** Elements per dimension. */
const shapeOf = ({ record }: Part): readonly number[] => {
  const view = new DataView(record.buffer, record.byteOffset)
  return Array.from({ length: 4 }, (_, axis) =>
    view.getUint32(RpcTensor.offsets.ne + 4 * axis, true),
  )
}

/**
 * For each part of a weight, in the devices' order, what it is when the weight is cut along the first axis, the second, or the third. None
 * of them is true where a device gets several pieces of the weight, as of fused ones, or where a device is not among the parts: then
 * `wholeBytes` is not the weight's size.
 */
export const slicesOf = (parts: readonly Part[]): readonly (readonly WeightSlice[])[] => {
  const wholeBytes = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  const slices: WeightSlice[][] = parts.map(() => [])
  for (let axis = 0; axis < AXIS_COUNT; axis++) {
    const rows = parts.map((part) => {
      const count = shapeOf(part)
        .slice(axis + 1)
        .reduce((product, length) => product * length, 1)
      return { count, bytes: part.sizeBytes / count }
    })
    const strideBytes = rows.reduce((sum, { bytes }) => sum + bytes, 0)
    let fromBytes = 0
    for (const [index, { count, bytes }] of rows.entries()) {
      slices[index]!.push(sliceOf(fromBytes, count, strideBytes, wholeBytes))
      fromBytes += bytes
    }
  }
  return slices
}

/** Of one row nobody can tell how far the next is. */
export const sliceOf = (
  fromBytes: number,
  rowCount: number,
  strideBytes: number,
  wholeBytes: number,
): WeightSlice => ({
  fromBytes,
  rowCount,
  strideBytes: rowCount === 1 ? 0 : strideBytes,
  wholeBytes,
})

export const isSameSlice = (one: WeightSlice, other: WeightSlice): boolean =>
  one.fromBytes === other.fromBytes &&
  one.rowCount === other.rowCount &&
  one.strideBytes === other.strideBytes &&
  one.wholeBytes === other.wholeBytes

/** Along which axis a part was cut from a whole of this shape; -1: it is the whole. */
export const axisOf = (part: Part, shape: readonly number[]): number =>
  shapeOf(part).findIndex((length, axis) => length !== (shape[axis] ?? 1))
