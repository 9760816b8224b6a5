/** One function for each shape of answer. Commands that the newest version answers with nothing have none here. */
import { Command, HelloExtension, writeU64FromNumber } from "@ggml-rpc/protocol"
import type { SessionState } from "./SessionState.ts"
import type { Wire } from "./Wire.ts"

/** HELLO: the version, and what `HelloExtension` says of this server. */
export const answerHello = (state: SessionState): void => {
  const { wire, spoken } = state
  const { major, minor, patch, extension } = spoken.offsets.hello
  const { version } = spoken.spec
  const at = answerZeros(wire, spoken.answerBytes[Command.HELLO]!)
  wire.out.setUint8(at + major, version.major)
  wire.out.setUint8(at + minor, version.minor)
  wire.out.setUint8(at + patch, version.patch)
  if (extension < 0) return
  const hasNone = state.cache === undefined && state.models === undefined
  const noCache = hasNone ? HelloExtension.NO_CACHE : 0
  const isPlain = state.devices.every(({ sizesArePlain }) => sizesArePlain)
  const plainSizes = isPlain ? HelloExtension.PLAIN_SIZES : 0
  const atOnce = state.devicesAtOnce ? HelloExtension.DEVICES_AT_ONCE : 0
  wire.out.setUint8(at + extension, HelloExtension.LEVEL | noCache | plainSizes | atOnce)
}

/** DEVICE_COUNT. */
export const answerCount = (wire: Wire, count: number): void => {
  const at = wire.answer(4)
  wire.out.setUint32(at, count, true)
}

/** GET_DEVICE_MEMORY: free and total bytes; ALLOC_BUFFER: handle and size. Whole numbers below 2^53. */
export const answerPair = (wire: Wire, first: number, second: number): void => {
  const at = wire.answer(16)
  writeU64FromNumber(wire.out, at, first)
  writeU64FromNumber(wire.out, at + 8, second)
}

/** GET_ALIGNMENT, GET_MAX_SIZE, BUFFER_GET_BASE, GET_ALLOC_SIZE; a negative number stands for 2^64−1. */
export const answerNumber = (wire: Wire, value: number): void => {
  const at = wire.answer(8)
  const { out } = wire
  if (value >= 0) {
    writeU64FromNumber(out, at, value)
    return
  }
  out.setUint32(at, 0xffff_ffff, true)
  out.setUint32(at + 4, 0xffff_ffff, true)
}

/** COPY_TENSOR, SET_TENSOR_HASH: 1 done, 0 left to the client. */
export const answerResult = (wire: Wire, result: number): void => {
  const at = wire.answer(1)
  wire.out.setUint8(at, result)
}

/** A command of which only older versions want to hear that it is done: no byte, or a status of 0. */
export const acknowledge = (wire: Wire, sizeBytes: number): void => {
  answerZeros(wire, sizeBytes)
}

const answerZeros = (wire: Wire, sizeBytes: number): number => {
  const at = wire.answer(sizeBytes)
  for (let index = 0; index < sizeBytes; index++) wire.out.setUint8(at + index, 0)
  return at
}
