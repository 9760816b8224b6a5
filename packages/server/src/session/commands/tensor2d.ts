/** SET_TENSOR_2D and GET_TENSOR_2D: runs of bytes at a stride in the tensor, packed on the wire. */
import { asPointer } from "@ggml-rpc/native/bindings"
import { refuse } from "../errors.ts"
import { readU64 } from "../graph/tensorWords.ts"
import type { SessionBuffer } from "../memory/buffers.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"

/** Answers up to this size join others in the outbox; smaller runs are received together with others. */
const SMALL_BYTES = 16 * 1024

/** The runs of the current request; its fields, as every request is done before the next. */
const runs = {
  buffer: undefined as SessionBuffer | undefined,
  offset: 0,
  size: 0,
  count: 0,
  stride: 0,
}

/** Reads and checks the runs: all of them lie in the tensor. */
const takeRuns = (state: SessionState): SessionBuffer => {
  const { words } = state.wire
  const offsets = state.spoken.offsets.tensor2d
  const buffer = state.takeTensor(offsets.tensor, "tensor", "required")!
  const size = readU64(words, offsets.sizeBytes / 4)
  const count = readU64(words, offsets.runCount / 4)
  const stride = readU64(words, offsets.strideBytes / 4)
  if (size === 0) refuse("size", "must be at least 1", 0)
  if (count === 0) refuse("n_copies", "must be at least 1", 0)
  const offset = readU64(words, offsets.offsetBytes / 4)
  const span = size < 0 || count < 0 || stride < 0 ? -1 : (count - 1) * stride + size
  state.tensor.checkRange(offset, Number.isSafeInteger(span) ? span : -1, "offset", "n_copies")
  if (!Number.isSafeInteger(size * count)) refuse("n_copies", "makes 2^53 bytes or more", count)
  runs.buffer = buffer
  runs.offset = offset
  runs.size = size
  runs.count = count
  runs.stride = stride
  return buffer
}

export const setTensor2d = (state: SessionState): void => {
  const { wire, tensor, spoken } = state
  const buffer = takeRuns(state)
  const { offset, size, count, stride } = runs
  const dataBytes = wire.sizeBytes - spoken.fixedBytes[wire.command]!
  if (dataBytes !== size * count) {
    refuse("payload_size", `must hold the ${size * count} bytes of its runs`, dataBytes)
  }
  if (buffer.isHost && size >= SMALL_BYTES) {
    const start = buffer.nativeBase + tensor.dataOffsetBytes + offset
    for (let run = 0; run < count; run++) wire.take(start + run * stride, size)
  } else if (size < STAGING_BYTES) setPacked(state)
  else setParts(state)
}

/** Whole runs that fit the staging block together, block after block. */
const setPacked = (state: SessionState): void => {
  const staging = state.stagingAddress()
  const { size, count } = runs
  const atOnce = Math.floor(STAGING_BYTES / size)
  for (let first = 0; first < count; first += atOnce) {
    const end = Math.min(first + atOnce, count)
    state.wire.take(staging, (end - first) * size)
    for (let run = first; run < end; run++) {
      writeRun(state, run, 0, size, staging + (run - first) * size)
    }
  }
}

const setParts = (state: SessionState): void => {
  const staging = state.stagingAddress()
  for (let run = 0; run < runs.count; run++) {
    for (let done = 0; done < runs.size; done += STAGING_BYTES) {
      const part = Math.min(runs.size - done, STAGING_BYTES)
      state.wire.take(staging, part)
      writeRun(state, run, done, part, staging)
    }
  }
}

const writeRun = (
  state: SessionState,
  run: number,
  done: number,
  sizeBytes: number,
  source: number,
): void => {
  const record = asPointer(state.wire.requestAddress + state.spoken.offsets.tensor2d.tensor)
  const to = runs.offset + run * runs.stride + done
  state.ggml.gs_tensor_set(record, asPointer(source), to, sizeBytes)
}

export const getTensor2d = (state: SessionState): void => {
  const { wire } = state
  takeRuns(state)
  const total = runs.size * runs.count
  if (total <= SMALL_BYTES) {
    const at = wire.answer(total)
    for (let run = 0; run < runs.count; run++) {
      readRun(state, run, 0, runs.size, wire.outAddress(at + run * runs.size))
    }
    return
  }
  wire.answerHeader(total)
  if (runs.size < STAGING_BYTES) sendPacked(state)
  else sendParts(state)
}

/** Whole runs that fit the staging block together, block after block. */
const sendPacked = (state: SessionState): void => {
  const staging = state.stagingAddress()
  const { size, count } = runs
  let filled = 0
  for (let run = 0; run < count; run++) {
    if (filled + size > STAGING_BYTES) {
      state.wire.sendRaw(staging, filled)
      filled = 0
    }
    readRun(state, run, 0, size, staging + filled)
    filled += size
  }
  state.wire.sendRaw(staging, filled)
}

const sendParts = (state: SessionState): void => {
  const staging = state.stagingAddress()
  for (let run = 0; run < runs.count; run++) {
    for (let done = 0; done < runs.size; done += STAGING_BYTES) {
      const part = Math.min(runs.size - done, STAGING_BYTES)
      readRun(state, run, done, part, staging)
      state.wire.sendRaw(staging, part)
    }
  }
}

const readRun = (
  state: SessionState,
  run: number,
  done: number,
  sizeBytes: number,
  target: number,
): void => {
  const record = asPointer(state.wire.requestAddress + state.spoken.offsets.tensor2d.tensor)
  const from = runs.offset + run * runs.stride + done
  state.ggml.gs_tensor_get(record, asPointer(target), from, sizeBytes)
}
