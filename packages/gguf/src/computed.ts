import type { GgufTensorToWrite } from "./write.ts"

/** Types of tensors that are computed element by element. */
export type FloatType = "F32" | "F16"

/** A tensor whose values are all `value`, as a norm's weights. */
export const constantTensor = (
  name: string,
  type: FloatType,
  ne: readonly number[],
  value: number,
): GgufTensorToWrite =>
  computedTensor(name, type, ne, (row) => {
    row.fill(value)
  })

/** A tensor computed row by row in float and packed as `type`. Rows are asked for in order. */
export const computedTensor = (
  name: string,
  type: FloatType,
  ne: readonly number[],
  computeRow: (row: Float32Array, index: number) => void,
): GgufTensorToWrite => {
  const row = new Float32Array(ne[0]!)
  const packed = type === "F32" ? row : new Float16Array(row.length)
  const packedBytes = new Uint8Array(packed.buffer)
  const fill = (target: Uint8Array, firstRow: number) => {
    const rowCount = target.byteLength / packedBytes.byteLength
    for (let index = 0; index < rowCount; index++) {
      row.fill(0)
      computeRow(row, firstRow + index)
      if (packed !== row) packed.set(row)
      target.set(packedBytes, index * packedBytes.byteLength)
    }
  }
  return { name, type, ne, fill }
}
