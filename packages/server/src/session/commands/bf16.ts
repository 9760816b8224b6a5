/** GET_TENSOR_BF16 and SET_TENSOR_BF16: ranges of F32 tensors, rounded to bf16 on the wire. */
import { asPointer } from "@ggml-rpc/native/bindings"
import { GetTensorRequest, SetTensorBf16Prefix } from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import { readU64 } from "../graph/tensorWords.ts"
import type { SessionBuffer } from "../memory/buffers.ts"
import type { SessionState } from "../SessionState.ts"
import {
  BF16_BYTES,
  F32_BYTES,
  floatsAt,
  halvesAt,
  PART_ELEMENTS,
  partialElements,
} from "./partial.ts"

/** Answers up to this size join others in the outbox. */
const SMALL_BYTES = 16 * 1024

/** Both requests begin with their tensor. */
const TENSOR_AT = SetTensorBf16Prefix.offsets.tensor

/** Takes the request's tensor, and checks that a range of it is one of whole floats. */
const takeFloats = (
  state: SessionState,
  offset: number,
  sizeBytes: number,
  sizeField: string,
): SessionBuffer => {
  const buffer = state.takeTensor(TENSOR_AT, "tensor", "required")!
  partialElements(state, TENSOR_AT)
  state.tensor.checkRange(offset, sizeBytes, "offset", sizeField)
  if (offset % F32_BYTES !== 0) refuse("offset", `must be a multiple of ${F32_BYTES}`, offset)
  return buffer
}

export const getTensorBf16 = (state: SessionState): void => {
  const { wire, ggml } = state
  const { offsets } = GetTensorRequest
  const offset = readU64(wire.words, offsets.offsetBytes / 4)
  const size = readU64(wire.words, offsets.sizeBytes / 4)
  const buffer = takeFloats(state, offset, size, "size")
  if (size % F32_BYTES !== 0) refuse("size", `must be a multiple of ${F32_BYTES}`, size)
  const count = size / F32_BYTES
  if (count * BF16_BYTES <= SMALL_BYTES) {
    const at = wire.answer(count * BF16_BYTES)
    const floats = floatsAt(state, TENSOR_AT, buffer, offset, count)
    ggml.gs_bf16_from_f32(asPointer(wire.outAddress(at)), asPointer(floats), count)
    return
  }
  wire.answerHeader(count * BF16_BYTES)
  const halves = halvesAt(state)
  for (let done = 0; done < count; done += PART_ELEMENTS) {
    const part = Math.min(count - done, PART_ELEMENTS)
    const floats = floatsAt(state, TENSOR_AT, buffer, offset + done * F32_BYTES, part)
    ggml.gs_bf16_from_f32(asPointer(halves), asPointer(floats), part)
    wire.sendRaw(halves, part * BF16_BYTES)
  }
}

export const setTensorBf16 = (state: SessionState): void => {
  const { wire } = state
  const dataBytes = wire.sizeBytes - SetTensorBf16Prefix.size
  if (dataBytes % BF16_BYTES !== 0) {
    refuse("payload_size", `must hold whole values of ${BF16_BYTES} bytes`, dataBytes)
  }
  const count = dataBytes / BF16_BYTES
  const offset = readU64(wire.words, SetTensorBf16Prefix.offsets.offsetBytes / 4)
  const buffer = takeFloats(state, offset, count * F32_BYTES, "payload_size")
  // The inbox is smaller than a part.
  if (wire.available(dataBytes) === dataBytes) {
    setFloats(state, buffer, offset, wire.tailAddress, count)
    wire.skip(dataBytes)
    return
  }
  const halves = halvesAt(state)
  for (let done = 0; done < count; done += PART_ELEMENTS) {
    const part = Math.min(count - done, PART_ELEMENTS)
    wire.take(halves, part * BF16_BYTES)
    setFloats(state, buffer, offset + done * F32_BYTES, halves, part)
  }
}

/** Sets `count` floats of the tensor, at most `PART_ELEMENTS`, from bf16 at an address. */
const setFloats = (
  state: SessionState,
  buffer: SessionBuffer,
  offset: number,
  halves: number,
  count: number,
): void => {
  const { ggml, tensor, wire } = state
  if (buffer.isHost) {
    const target = buffer.nativeBase + tensor.dataOffsetBytes + offset
    ggml.gs_f32_from_bf16(asPointer(target), asPointer(halves), count)
    return
  }
  const staging = state.stagingAddress()
  ggml.gs_f32_from_bf16(asPointer(staging), asPointer(halves), count)
  const record = asPointer(wire.requestAddress + TENSOR_AT)
  ggml.gs_tensor_set(record, asPointer(staging), offset, count * F32_BYTES)
}
