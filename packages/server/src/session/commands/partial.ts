/** Tensors that are F32 without gaps: parts of sums over servers, and what travels as bf16. */
import { refuse } from "../errors.ts"
import { word } from "../graph/tensorWords.ts"
import type { SessionState } from "../SessionState.ts"
import { loadedTypeId } from "../spoken.ts"

const F32 = loadedTypeId("F32")

export const F32_BYTES = 4
export const BF16_BYTES = 2

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
