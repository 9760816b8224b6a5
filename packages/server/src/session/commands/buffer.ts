import { type Address, asPointer } from "@ggml-rpc/native/bindings"
import { answerNumber, answerPair } from "../answers.ts"
import { readU64 } from "../graph/tensorWords.ts"
import type { SessionBuffer } from "../memory/buffers.ts"
import type { SessionState } from "../SessionState.ts"

/** What does not fit is answered as out of memory: handle 0. */
export const allocBuffer = (state: SessionState): void => {
  const device = state.deviceIndex()
  const sizeBytes = readU64(state.wire.words, state.spoken.offsets.allocSizeBytes / 4)
  const buffer = tryAlloc(state, device, sizeBytes)
  answerPair(state.wire, buffer?.id ?? 0, buffer?.sizeBytes ?? 0)
}

const tryAlloc = (
  state: SessionState,
  index: number,
  sizeBytes: number,
): SessionBuffer | undefined => {
  const { buffers, ggml, hostMemory, ledger, quota } = state
  const device = state.devices[index]!
  if (sizeBytes < 0) return undefined
  if (device.maxSizeBytes >= 0 && sizeBytes > device.maxSizeBytes) return undefined
  if (!buffers.hasRoom(sizeBytes, device.alignmentBytes)) return undefined
  // What is promised is written down before another session decides.
  const isGranted = ledger.alone(() => {
    if (sizeBytes > quota.leftBytes() || !device.hasMemoryFor(sizeBytes, hostMemory)) return false
    const hostBytes = device.usesHostMemory ? sizeBytes : 0
    ledger.set(buffers.hostBytes + hostBytes, buffers.allBytes + sizeBytes)
    return true
  })
  if (!isGranted) return undefined
  if (!device.usesHostMemory) state.spend()
  const native = ggml.gs_buffer_alloc(asPointer(device.bufferType), sizeBytes) as Address
  if (native === 0 || native === null) {
    ledger.set(buffers.hostBytes, buffers.allBytes)
    return undefined
  }
  const pointer = asPointer(native)
  const size = ggml.gs_buffer_size(pointer)
  const isHost = ggml.ggml_backend_buffer_is_host(pointer)
  // Nothing lies behind what others allocated.
  const tailBytes = isHost ? ggml.gs_buffer_tail(pointer) : 0
  const buffer = buffers.add(
    {
      device: index,
      native,
      sizeBytes: size,
      nativeBase: size === 0 ? 0 : ggml.gs_buffer_base(pointer),
      isHost: state.directMemory && isHost,
      isOwn: state.directMemory && tailBytes > 0,
      tailBytes: isHost ? tailBytes : Number.POSITIVE_INFINITY,
    },
    device.alignmentBytes,
  )
  ledger.set(buffers.hostBytes, buffers.allBytes)
  return buffer
}

export const bufferGetBase = (state: SessionState): void =>
  answerNumber(state.wire, state.buffer().base)

export const freeBuffer = (state: SessionState): void => {
  const buffer = state.buffer()
  state.stored.dropTouching(buffer.id)
  state.largePages.drop(buffer)
  state.buffers.remove(buffer)
  state.ledger.set(state.buffers.hostBytes, state.buffers.allBytes)
  state.ggml.gs_buffer_free(asPointer(buffer.native))
}

export const bufferClear = (state: SessionState): void => {
  const buffer = state.buffer()
  const value = state.wire.view.getUint8(state.spoken.offsets.bufferClear.value)
  if (buffer.sizeBytes > 0) state.ggml.gs_buffer_clear(asPointer(buffer.native), value)
}
