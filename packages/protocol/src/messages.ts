import { commandName, describeCommand, type MessageId, type NameOf } from "./commands.ts"
import { ProtocolError } from "./errors.ts"
import type { PayloadCodec } from "./payload.ts"
import { RpcTensor, writeU64FromNumber } from "./tensor.ts"
import { V7_0_0 } from "./v7/spec.ts"
import { SetTensorPrefix } from "./v7/tensor.ts"
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

const requestCodec = (command: number, spec: ProtocolSpec): PayloadCodec<unknown> =>
  requireCommand(command, spec).request

const responseCodec = (command: number, spec: ProtocolSpec): PayloadCodec<unknown> => {
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
): Uint8Array => {
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
): Uint8Array => {
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

/** Bytes that `writeSetTensorPrefix` writes: header, tensor, cache flag, offset. The data follows. */
export const SET_TENSOR_PREFIX_SIZE_BYTES: number = REQUEST_HEADER_SIZE_BYTES + SetTensorPrefix.size

const putU64 = (target: Uint8Array, offset: number, value: number): void => {
  const high = Math.floor(value / 0x1_0000_0000)
  target[offset] = value
  target[offset + 1] = value >>> 8
  target[offset + 2] = value >>> 16
  target[offset + 3] = value >>> 24
  target[offset + 4] = high
  target[offset + 5] = high >>> 8
  target[offset + 6] = high >>> 16
  target[offset + 7] = high >>> 24
}

/**
 * Writes everything of a SET_TENSOR request (7.0.0) but its data, 314 bytes at `target[offset]`, without allocating.
 *
 * `tensors[tensorStart..+296]` is the encoded `RpcTensor`. `dataOffsetBytes` (where in the tensor) and `dataSizeBytes` are
 * safe integers. Returns the offset after the prefix. The caller guarantees room for it.
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
  target[offset] = 6
  putU64(target, offset + 1, SetTensorPrefix.size + dataSizeBytes)
  const payload = offset + REQUEST_HEADER_SIZE_BYTES
  for (let index = 0; index < RpcTensor.size; index++) {
    target[payload + index] = tensors[tensorStart + index]!
  }
  target[payload + SetTensorPrefix.offsets.cacheFlag] = cacheFlag
  putU64(target, payload + SetTensorPrefix.offsets.offsetBytes, dataOffsetBytes)
  return payload + SetTensorPrefix.size
}
