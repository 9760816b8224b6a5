import { Command, commandName, describeCommand, type MessageId, type NameOf } from "./commands.ts"
import { ProtocolError } from "./errors.ts"
import type { PayloadCodec } from "./payload.ts"
import { RpcTensor, writeU64FromNumber } from "./tensor.ts"
import { DeviceRequest } from "./v7/device.ts"
import { V7_0_0 } from "./v7/spec.ts"
import { GetTensorRequest, SetTensorHashRequest, SetTensorPrefix } from "./v7/tensor.ts"
import {
  type CommandSpec,
  formatVersion,
  type ProtocolSpec,
  type Requests,
  type Responses,
} from "./version.ts"

/** `u8 command, u64 payload_size`. */
export const REQUEST_HEADER_SIZE_BYTES = 9

/** `u64 payload_size`; a response names no command and has no status. */
export const RESPONSE_HEADER_SIZE_BYTES = 8

type MessageName<C extends MessageId> = Extract<NameOf<C>, keyof Requests>

/** The value of a command's request, such as `RequestOf<typeof Command.ALLOC_BUFFER>`. */
export type RequestOf<C extends MessageId> = Requests[MessageName<C>]

/** The value of a command's response; `undefined` when it has none. */
export type ResponseOf<C extends MessageId> = Responses[MessageName<C>]

/** The command's table entry in a version, or `undefined` when the version lacks it. */
export const commandSpec = (
  command: number,
  spec: ProtocolSpec = V7_0_0,
): CommandSpec<unknown, unknown> | undefined => {
  const name = commandName(command)
  return name === undefined || name === "NONE"
    ? undefined
    : (spec.commands[name] as CommandSpec<unknown, unknown> | undefined)
}

const requireCommand = (command: number, spec: ProtocolSpec): CommandSpec<unknown, unknown> => {
  const entry = commandSpec(command, spec)
  if (entry !== undefined) return entry
  throw new ProtocolError({
    command: describeCommand(command),
    field: "command",
    reason: `does not exist in protocol ${formatVersion(spec.version)}`,
    value: command,
  })
}

/** A command's request codec; throws `ProtocolError` when the version lacks the command. */
export const requestCodec = (command: number, spec: ProtocolSpec): PayloadCodec<unknown> =>
  requireCommand(command, spec).request

/** A command's response codec; throws `ProtocolError` when the version lacks the command or its response. */
export const responseCodec = (command: number, spec: ProtocolSpec): PayloadCodec<unknown> => {
  const codec = requireCommand(command, spec).response
  if (codec !== null) return codec
  throw new ProtocolError({
    command: describeCommand(command),
    field: "response",
    reason: `does not exist in protocol ${formatVersion(spec.version)}`,
  })
}

/** Throws `ProtocolError` unless a payload of `sizeBytes` can be one of `codec`. */
export const checkPayloadSize = (
  command: number,
  codec: PayloadCodec<unknown>,
  sizeBytes: number,
): void => {
  if (sizeBytes >= codec.minSizeBytes && sizeBytes <= codec.maxSizeBytes) return
  const exact = codec.minSizeBytes === codec.maxSizeBytes
  throw new ProtocolError({
    command: describeCommand(command),
    field: "payload_size",
    reason: exact
      ? `must be ${codec.minSizeBytes} bytes`
      : `must be at least ${codec.minSizeBytes} bytes`,
    value: sizeBytes,
  })
}

const decodePayload = (
  command: number,
  codec: PayloadCodec<unknown>,
  payload: Uint8Array,
): unknown => {
  checkPayloadSize(command, codec, payload.length)
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
  return codec.decode(view, 0, payload.length)
}

/**
 * The whole request, header included. Throws `ProtocolError` when a value does not fit its field.
 *
 * For tensor data prefer `writeSetTensorPrefix` and sending the data from where it lies: this copies it.
 */
export const encodeRequest = <C extends MessageId>(
  command: C,
  value: RequestOf<C>,
  spec: ProtocolSpec = V7_0_0,
): Uint8Array<ArrayBuffer> => {
  const codec = requestCodec(command, spec)
  const payloadSize = codec.sizeOf(value)
  const frame = new Uint8Array(REQUEST_HEADER_SIZE_BYTES + payloadSize)
  const view = new DataView(frame.buffer)
  writeRequestHeader(view, 0, command, payloadSize)
  codec.encode(value, view, REQUEST_HEADER_SIZE_BYTES)
  return frame
}

/**
 * A request's value from its payload (without the header). Throws `ProtocolError` for a wrong size, an unknown command
 * or counts that do not fit. Tensor data is a view of `payload`.
 */
export const decodeRequest = <C extends MessageId>(
  command: C,
  payload: Uint8Array,
  spec: ProtocolSpec = V7_0_0,
): RequestOf<C> => decodePayload(command, requestCodec(command, spec), payload) as RequestOf<C>

/** The whole response, header included. Throws `ProtocolError` for a command without a response. */
export const encodeResponse = <C extends MessageId>(
  command: C,
  value: ResponseOf<C>,
  spec: ProtocolSpec = V7_0_0,
): Uint8Array<ArrayBuffer> => {
  const codec = responseCodec(command, spec)
  const payloadSize = codec.sizeOf(value)
  const frame = new Uint8Array(RESPONSE_HEADER_SIZE_BYTES + payloadSize)
  const view = new DataView(frame.buffer)
  writeU64FromNumber(view, 0, payloadSize)
  codec.encode(value, view, RESPONSE_HEADER_SIZE_BYTES)
  return frame
}

/** A response's value from its payload (without the header). Tensor data is a view of `payload`. */
export const decodeResponse = <C extends MessageId>(
  command: C,
  payload: Uint8Array,
  spec: ProtocolSpec = V7_0_0,
): ResponseOf<C> => decodePayload(command, responseCodec(command, spec), payload) as ResponseOf<C>

/** Writes the 9 bytes before a request's payload; `payloadSize` is a safe integer. */
export const writeRequestHeader = (
  view: DataView,
  offset: number,
  command: number,
  payloadSize: number,
): void => {
  view.setUint8(offset, command)
  writeU64FromNumber(view, offset + 1, payloadSize)
}

/** Writes the 8 bytes before a response's payload; `payloadSize` is a safe integer. */
export const writeResponseHeader = (view: DataView, offset: number, payloadSize: number): void =>
  writeU64FromNumber(view, offset, payloadSize)

/*
 * The requests that a client sends for every token, written straight into a block of pending bytes: no view, no bigint,
 * no allocation. `tensors[tensorStart..+296]` is an encoded `RpcTensor`; sizes and offsets are safe integers. Each returns
 * the offset after what it wrote; the caller guarantees the room.
 */

const putU32 = (target: Uint8Array, offset: number, value: number): void => {
  target[offset] = value
  target[offset + 1] = value >>> 8
  target[offset + 2] = value >>> 16
  target[offset + 3] = value >>> 24
}

const putU64 = (target: Uint8Array, offset: number, value: number): void => {
  putU32(target, offset, value >>> 0)
  putU32(target, offset + 4, Math.floor(value / 0x1_0000_0000))
}

const putTensor = (
  target: Uint8Array,
  offset: number,
  tensors: Uint8Array,
  tensorStart: number,
): void => {
  for (let index = 0; index < RpcTensor.size; index++) {
    target[offset + index] = tensors[tensorStart + index]!
  }
}

/** Header; returns the offset of the payload. */
const putHeader = (
  target: Uint8Array,
  offset: number,
  command: number,
  payloadSize: number,
): number => {
  target[offset] = command
  putU64(target, offset + 1, payloadSize)
  return offset + REQUEST_HEADER_SIZE_BYTES
}

/** Bytes that `writeSetTensorPrefix` writes (314): header, tensor, cache flag, offset. The data follows. */
export const SET_TENSOR_PREFIX_SIZE_BYTES: number = REQUEST_HEADER_SIZE_BYTES + SetTensorPrefix.size

/**
 * Everything of a SET_TENSOR request (7.0.0) but its data, which is to follow: 314 bytes. `dataOffsetBytes` is where in
 * the tensor the data goes.
 */
export const writeSetTensorPrefix = (
  target: Uint8Array,
  offset: number,
  tensors: Uint8Array,
  tensorStart: number,
  cacheFlag: 0 | 1,
  dataOffsetBytes: number,
  dataSizeBytes: number,
): number => {
  const size = SetTensorPrefix.size + dataSizeBytes
  const payload = putHeader(target, offset, Command.SET_TENSOR, size)
  putTensor(target, payload, tensors, tensorStart)
  target[payload + SetTensorPrefix.offsets.cacheFlag] = cacheFlag
  putU64(target, payload + SetTensorPrefix.offsets.offsetBytes, dataOffsetBytes)
  return payload + SetTensorPrefix.size
}

/** A whole SET_TENSOR_HASH request: 321 bytes. The hash comes in two halves, as `Fnv1a64` gives it. */
export const writeSetTensorHashRequest = (
  target: Uint8Array,
  offset: number,
  tensors: Uint8Array,
  tensorStart: number,
  dataOffsetBytes: number,
  hashLo: number,
  hashHi: number,
): number => {
  const { offsets, size } = SetTensorHashRequest
  const payload = putHeader(target, offset, Command.SET_TENSOR_HASH, size)
  putTensor(target, payload, tensors, tensorStart)
  putU64(target, payload + offsets.offsetBytes, dataOffsetBytes)
  putU32(target, payload + offsets.hash, hashLo)
  putU32(target, payload + offsets.hash + 4, hashHi)
  return payload + size
}

/** A whole GET_TENSOR request: 321 bytes. */
export const writeGetTensorRequest = (
  target: Uint8Array,
  offset: number,
  tensors: Uint8Array,
  tensorStart: number,
  dataOffsetBytes: number,
  dataSizeBytes: number,
): number => {
  const { offsets, size } = GetTensorRequest
  const payload = putHeader(target, offset, Command.GET_TENSOR, size)
  putTensor(target, payload, tensors, tensorStart)
  putU64(target, payload + offsets.offsetBytes, dataOffsetBytes)
  putU64(target, payload + offsets.sizeBytes, dataSizeBytes)
  return payload + size
}

/** A whole GRAPH_RECOMPUTE request: 13 bytes. */
export const writeGraphRecomputeRequest = (
  target: Uint8Array,
  offset: number,
  device: number,
): number => {
  const payload = putHeader(target, offset, Command.GRAPH_RECOMPUTE, DeviceRequest.size)
  putU32(target, payload, device)
  return payload + DeviceRequest.size
}
