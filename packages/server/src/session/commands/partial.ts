/** Tensors that are F32 without gaps, and not permuted: parts of sums over servers, what travels as bf16, and rows whose largest values are asked for. */
import { asPointer } from "@ggml-rpc/native/bindings"
import { refuse } from "../errors.ts"
import { describeShape } from "../graph/TensorCheck.ts"
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
  // Of no elements.
  if (tensor.sizeBytes === 0) return 0
  let count = 1
  for (let dim = 0; dim < 4; dim++) {
    const ne = words[at + word.ne + dim]!
    const nb = words[at + word.nb + dim]!
    // As of ggml, where one that is alone lies does not matter.
    if (ne !== 1 && nb !== count * F32_BYTES) {
      const shape = describeShape(words, at)
      refuse("tensor.nb", "must leave no gaps between elements, which lie in their order", shape)
    }
    count *= ne
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
