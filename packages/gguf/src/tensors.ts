import type { Cursor } from "./Cursor.ts"
import { GgufError } from "./GgufError.ts"
import { ggmlTypeById, isLaterType, tensorSizeBytes } from "./ggmlTypes.ts"
import { quote } from "./metadata.ts"
import type { GgufTensorInfo } from "./types.ts"

const MAX_TENSOR_NAME_BYTES = 63
const MAX_DIMENSIONS = 4

export const readTensorInfos = (
  cursor: Cursor,
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

const readTensorInfo = (cursor: Cursor, index: number, part: number): GgufTensorInfo => {
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
    throw isLaterType(typeId)
      ? cursor.unknownType(`tensor ${quote(name)} has the type ${typeId}`)
      : cursor.malformed(`tensor ${quote(name)} has the unknown type ${typeId}`)
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

const readTensorName = (cursor: Cursor, index: number): string => {
  const start = cursor.offsetBytes
  const name = cursor.string(`tensor list (name ${index})`)
  const nameBytes = cursor.offsetBytes - start - 8
  if (nameBytes > MAX_TENSOR_NAME_BYTES) {
    throw cursor.malformed(`tensor name ${index} is ${nameBytes} bytes long`)
  }
  return name
}

/** Tensor data follows in the list's order, each start padded, and lies wholly in the file. */
export const checkTensorData = (
  cursor: Cursor,
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

const dataTruncated = (cursor: Cursor, neededBytes: number): GgufError =>
  new GgufError({
    path: cursor.name,
    reason: "truncated",
    message:
      `${cursor.name} is truncated: ${neededBytes - cursor.fileBytes} of ${neededBytes} bytes are ` +
      "missing; download or copy it again",
  })

// Addition and remainder, not bit operations: offsets pass 2^32.
export const alignUp = (offsetBytes: number, alignmentBytes: number): number => {
  const over = offsetBytes % alignmentBytes
  return over === 0 ? offsetBytes : offsetBytes + alignmentBytes - over
}
