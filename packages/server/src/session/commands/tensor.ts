import { ptr } from "bun:ffi"
import { asPointer } from "@ggml-rpc/native/bindings"
import { RpcTensor, readU64AsNumber } from "@ggml-rpc/protocol"
import type { CacheWriter } from "../../cache/Cache.ts"
import { answerNumber, answerResult } from "../answers.ts"
import { ComputeError, refuse } from "../errors.ts"
import { isZeroU64, readU64 } from "../graph/tensorWords.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"

/** Reads up to this size join other answers in the outbox; larger ones go from where they lie. */
const SMALL_READ_BYTES = 16 * 1024

const SOURCE_COUNT = 10

const noSourceBytes = new Uint8Array(RpcTensor.size * SOURCE_COUNT)
const noSources = ptr(noSourceBytes) as number

// ---- data in ---------------------------------------------------------------------------------------

export const setTensor = (state: SessionState): void => {
  const { wire, tensor, cache, spoken } = state
  const { view } = wire
  const offsets = spoken.offsets.setTensor
  const buffer = state.takeTensor(offsets.tensor, "tensor", "required")!
  const offset = readU64AsNumber(view, offsets.offsetBytes)
  const size = wire.sizeBytes - spoken.fixedBytes[wire.command]!
  tensor.checkRange(offset, size, "offset", "payload_size")
  // Before there was a flag, the size alone decided.
  const isWanted =
    offsets.cacheFlag < 0
      ? size > spoken.spec.features.hashThresholdBytes
      : view.getUint8(offsets.cacheFlag) !== 0
  const isCached = cache !== undefined && isWanted && cache.takes(size)
  if (buffer.isHost) {
    const target = buffer.nativeBase + tensor.dataOffsetBytes + offset
    wire.take(target, size)
    if (isCached) cache.store(target, size)
  } else if (size === wire.available(size) && !isCached) {
    const record = asPointer(wire.requestAddress + offsets.tensor)
    state.ggml.gs_tensor_set(record, asPointer(wire.tailAddress), offset, size)
    wire.skip(size)
  } else {
    setStaged(state, offset, size, isCached ? cache.writer(size) : undefined)
  }
}

const setStaged = (
  state: SessionState,
  offset: number,
  size: number,
  writer: CacheWriter | undefined,
): void => {
  const { wire, ggml, spoken } = state
  const record = asPointer(wire.requestAddress + spoken.offsets.setTensor.tensor)
  const staging = state.stagingAddress()
  try {
    for (let done = 0; done < size; ) {
      const part = Math.min(size - done, STAGING_BYTES)
      wire.take(staging, part)
      ggml.gs_tensor_set(record, asPointer(staging), offset + done, part)
      writer?.write(staging, part)
      done += part
    }
    writer?.finish()
  } finally {
    writer?.abandon()
  }
}

export const memsetTensor = (state: SessionState): void => {
  const { wire } = state
  const offsets = state.spoken.offsets.memsetTensor
  state.takeTensor(offsets.tensor, "tensor", "required")
  const offset = readU64(wire.words, offsets.offsetBytes / 4)
  const size = readU64(wire.words, offsets.sizeBytes / 4)
  state.tensor.checkRange(offset, size, "offset", "size")
  const value = wire.view.getUint8(offsets.value)
  if (size === 0) return
  const record = asPointer(wire.requestAddress + offsets.tensor)
  state.ggml.gs_tensor_memset(record, value, offset, size)
}

// ---- data out --------------------------------------------------------------------------------------

export const getTensor = (state: SessionState): void => {
  const { wire, tensor, ggml } = state
  const offsets = state.spoken.offsets.getTensor
  const buffer = state.takeTensor(offsets.tensor, "tensor", "required")!
  const offset = readU64(wire.words, offsets.offsetBytes / 4)
  const size = readU64(wire.words, offsets.sizeBytes / 4)
  tensor.checkRange(offset, size, "offset", "size")
  const record = asPointer(wire.requestAddress + offsets.tensor)
  if (size <= SMALL_READ_BYTES) {
    const at = wire.answer(size)
    ggml.gs_tensor_get(record, asPointer(wire.outAddress(at)), offset, size)
  } else if (buffer.isHost) {
    wire.answerFrom(buffer.nativeBase + tensor.dataOffsetBytes + offset, size)
  } else {
    const staging = state.stagingAddress()
    wire.answerHeader(size)
    for (let done = 0; done < size; ) {
      const part = Math.min(size - done, STAGING_BYTES)
      ggml.gs_tensor_get(record, asPointer(staging), offset + done, part)
      wire.sendRaw(staging, part)
      done += part
    }
  }
}

// ---- the rest --------------------------------------------------------------------------------------

export const copyTensor = (state: SessionState): void => {
  const { wire, tensor, ggml } = state
  const offsets = state.spoken.offsets.copyTensor
  state.takeTensor(offsets.src, "src", "required")
  const { sizeBytes } = tensor
  const target = state.takeTensor(offsets.dst, "dst", "required", sizeBytes)!
  const room = target.sizeBytes - tensor.dataOffsetBytes
  if (sizeBytes > room) {
    refuse("dst.data", `has ${room} bytes to the end of its buffer, src needs`, sizeBytes)
  }
  const src = asPointer(wire.requestAddress + offsets.src)
  const dst = asPointer(wire.requestAddress + offsets.dst)
  answerResult(wire, ggml.gs_tensor_copy(src, dst))
}

export const initTensor = (state: SessionState): void => {
  const { ggml } = state
  const buffer = state.takeTensor(0, "tensor", "lenient")
  if (buffer === undefined) return
  const record = asPointer(state.wire.requestAddress)
  const type = asPointer(state.devices[buffer.device]!.bufferType)
  // Backends clear the padding behind the tensor: it must be inside the buffer too.
  const padded = ggml.gs_tensor_alloc_size(type, record, asPointer(noSources))
  const room = buffer.sizeBytes - state.tensor.dataOffsetBytes
  if (padded > room) {
    refuse("tensor.data", `leaves ${room} bytes in its buffer, with padding it needs`, padded)
  }
  if (ggml.gs_tensor_init(record) === 0) {
    throw new ComputeError("the device keeps state of its own for this tensor")
  }
}

export const getAllocSize = (state: SessionState): void => {
  const { words, requestAddress } = state.wire
  const offsets = state.spoken.offsets.getAllocSize
  const device = state.device()
  const hasSources = offsets.srcs >= 0
  for (let index = 0; hasSources && index < SOURCE_COUNT; index++) {
    const at = offsets.srcs + index * RpcTensor.size
    if (!isZeroU64(words, at / 4)) state.takeTensor(at, "srcs", "lenient")
  }
  state.takeTensor(offsets.tensor, "tensor", "lenient")
  answerNumber(
    state.wire,
    state.ggml.gs_tensor_alloc_size(
      asPointer(device.bufferType),
      asPointer(requestAddress + offsets.tensor),
      asPointer(hasSources ? requestAddress + offsets.srcs : noSources),
    ),
  )
}
