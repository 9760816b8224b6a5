/** Tensors that are F32 without gaps: parts of sums over servers, what travels as bf16, and rows whose largest values are asked for. */
import { asPointer } from "@ggml-rpc/native/bindings"
import { refuse } from "../errors.ts"
import { word } from "../graph/tensorWords.ts"
import type { SessionBuffer } from "../memory/buffers.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"
import { loadedTypeId } from "../spoken.ts"

const F32 = loadedTypeId("F32")

export const F32_BYTES = 4
export const BF16_BYTES = 2

/** Elements that are converted at once: as floats at the beginning of the staging block, and as bf16 from `halvesAt` on. */
export const PART_ELEMENTS = STAGING_BYTES / (2 * F32_BYTES)

/** Where bf16 have their place in the staging block. */
export const halvesAt = (state: SessionState): number =>
  state.stagingAddress() + PART_ELEMENTS * F32_BYTES

/**
 * Elements of the tensor at a byte of the request, which `takeTensor` took.
 *
 * @throws {ProtocolError} when it is another one
 */
export const partialElements = ({ wire, tensor }: SessionState, offsetBytes: number): number => {
  const { words } = wire
  const at = offsetBytes / 4
  const type = words[at + word.type]!
  if (type !== F32) refuse("tensor.type", "must be F32", type)
  const ne = at + word.ne
  const count = words[ne]! * words[ne + 1]! * words[ne + 2]! * words[ne + 3]!
  if (tensor.sizeBytes !== count * F32_BYTES) {
    refuse("tensor.nb", `must leave no gaps between ${count} elements`, tensor.sizeBytes)
  }
  return count
}

/**
 * Address of `count` floats of the tensor at a byte of the request, from `offset` on: where they lie, or in the staging block, where they
 * were read to.
 */
export const floatsAt = (
  state: SessionState,
  tensorAt: number,
  buffer: SessionBuffer,
  offset: number,
  count: number,
): number => {
  if (buffer.isHost) return buffer.nativeBase + state.tensor.dataOffsetBytes + offset
  const staging = state.stagingAddress()
  const record = asPointer(state.wire.requestAddress + tensorAt)
  state.ggml.gs_tensor_get(record, asPointer(staging), offset, count * F32_BYTES)
  return staging
}
