/** GET_TENSOR_TOP: of rows of an F32 tensor, the largest values. */
import { asPointer } from "@ggml-rpc/native/bindings"
import {
  GetTensorTopRequest,
  MAX_TOP_COUNT,
  MAX_TOP_ROW,
  TOP_VALUE_BYTES,
} from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import { readU64, word } from "../graph/tensorWords.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"
import { F32_BYTES, floatsAt, partialElements } from "./partial.ts"

/** Answers up to this size join others in the outbox. */
const SMALL_BYTES = 16 * 1024

/** Half of the staging block holds rows, which it does as one has at most `MAX_TOP_ROW` values; the other half what was found. */
const FOUND_AT = STAGING_BYTES / 2

export const getTensorTop = (state: SessionState): void => {
  const { wire, ggml } = state
  const { offsets } = GetTensorTopRequest
  const buffer = state.takeTensor(offsets.tensor, "tensor", "required")!
  partialElements(state, offsets.tensor)
  const offset = readU64(wire.words, offsets.offsetBytes / 4)
  const size = readU64(wire.words, offsets.sizeBytes / 4)
  const count = wire.words[offsets.count / 4]!
  const columns = wire.words[offsets.tensor / 4 + word.ne]!
  const rowBytes = columns * F32_BYTES
  if (columns > MAX_TOP_ROW) refuse("tensor.ne", `must be at most ${MAX_TOP_ROW} wide`, columns)
  const most = Math.min(columns, MAX_TOP_COUNT)
  if (count < 1 || count > most) refuse("count", `must be from 1 to ${most}`, count)
  state.tensor.checkRange(offset, size, "offset", "size")
  if (offset % rowBytes !== 0) refuse("offset", `must be a multiple of ${rowBytes}`, offset)
  if (size % rowBytes !== 0) refuse("size", `must be a multiple of ${rowBytes}`, size)

  const rowCount = size / rowBytes
  const foundBytes = count * TOP_VALUE_BYTES
  const rowsAtOnce = Math.floor(FOUND_AT / Math.max(rowBytes, foundBytes))
  const isSmall = rowCount * foundBytes <= SMALL_BYTES
  let target: number
  if (isSmall) target = wire.outAddress(wire.answer(rowCount * foundBytes))
  else {
    wire.answerHeader(rowCount * foundBytes)
    target = state.stagingAddress() + FOUND_AT
  }
  for (let done = 0; done < rowCount; done += rowsAtOnce) {
    const part = Math.min(rowCount - done, rowsAtOnce)
    const at = offset + done * rowBytes
    const rows = floatsAt(state, offsets.tensor, buffer, at, part * columns)
    ggml.gs_rows_top(asPointer(rows), part, columns, count, asPointer(target))
    if (isSmall) target += part * foundBytes
    else wire.sendRaw(target, part * foundBytes)
  }
}
