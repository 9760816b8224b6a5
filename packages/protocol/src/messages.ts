import {
  REQUEST_HEADER_SIZE_BYTES,
  RESPONSE_HEADER_SIZE_BYTES,
  writeRequestHeader,
} from "./codec/header.ts"
import type { PayloadCodec } from "./codec/payload.ts"
import type { ValueOf } from "./codec/record.ts"
import { writeU64FromNumber } from "./codec/u64.ts"
import { commandName, describeCommand, type MessageId, type NameOf } from "./commands.ts"
import { ProtocolError } from "./errors.ts"
import {
  ExtensionCommand,
  type ExtensionName,
  extensionCommands,
  type GateName,
  gateCommands,
  linkKeyCommand,
} from "./extension.ts"
import { newest } from "./versions/index.ts"
import {
  type CommandSpec,
  formatVersion,
  type ProtocolSpec,
  type Requests,
  type Responses,
} from "./versions/spec.ts"

type MessageName<C extends MessageId> = Extract<NameOf<C>, keyof Requests>

/** The value of a command's request, such as `RequestOf<typeof Command.ALLOC_BUFFER>`. */
export type RequestOf<C extends MessageId> = Requests[MessageName<C>]

/** The value of a command's response; `undefined` when it has none. */
export type ResponseOf<C extends MessageId> = Responses[MessageName<C>]

/** The command's table entry in a version, or `undefined` when the version lacks it. */
export const commandSpec = (
  command: number,
  spec: ProtocolSpec = newest,
): CommandSpec<unknown, unknown> | undefined => {
  const name = commandName(command)
  return name === undefined
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
  spec: ProtocolSpec = newest,
): Uint8Array<ArrayBuffer> => {
  return requestFrame(command, requestCodec(command, spec), value)
}

/** The same for an extension command, whose payload is that of every version. */
export const encodeExtensionRequest = <N extends ExtensionName>(
  name: N,
  value: ValueOf<(typeof extensionCommands)[N]["request"]>,
): Uint8Array<ArrayBuffer> =>
  requestFrame(
    ExtensionCommand[name],
    extensionCommands[name].request as PayloadCodec<unknown>,
    value,
  )

/** The extension commands that are answered. */
export type AnsweredExtension = {
  [N in ExtensionName]: (typeof extensionCommands)[N]["response"] extends null ? never : N
}[ExtensionName]

/** The answer to one, header included. */
export const encodeExtensionResponse = <N extends AnsweredExtension>(
  name: N,
  value: ValueOf<(typeof extensionCommands)[N]["response"]>,
): Uint8Array<ArrayBuffer> =>
  responseFrame(extensionCommands[name].response as PayloadCodec<unknown>, value)

/** The value of an answer's payload, without the header. */
export const decodeExtensionResponse = <N extends AnsweredExtension>(
  name: N,
  payload: Uint8Array,
): ValueOf<(typeof extensionCommands)[N]["response"]> =>
  decodePayload(ExtensionCommand[name], extensionCommands[name].response, payload) as never

/** A request of the gate, header included. */
export const encodeGateRequest = <N extends GateName>(
  name: N,
  value: ValueOf<(typeof gateCommands)[N]["request"]>,
): Uint8Array<ArrayBuffer> =>
  requestFrame(ExtensionCommand[name], gateCommands[name].request as PayloadCodec<unknown>, value)

/** The answer to one, header included. */
export const encodeGateResponse = <N extends GateName>(
  name: N,
  value: ValueOf<(typeof gateCommands)[N]["response"]>,
): Uint8Array<ArrayBuffer> =>
  responseFrame(gateCommands[name].response as PayloadCodec<unknown>, value)

/** The value of an answer's payload, without the header. */
export const decodeGateResponse = <N extends GateName>(
  name: N,
  payload: Uint8Array,
): ValueOf<(typeof gateCommands)[N]["response"]> =>
  decodePayload(ExtensionCommand[name], gateCommands[name].response, payload) as never

/** What a server says to another one to become a link of a session there, header included. */
export const encodeLinkKey = (key: Uint8Array): Uint8Array<ArrayBuffer> =>
  requestFrame(ExtensionCommand.LINK_KEY, linkKeyCommand.request, { key })

/** Its answer, header included. */
export const encodeLinkKeyAnswer = (status: number): Uint8Array<ArrayBuffer> =>
  responseFrame(linkKeyCommand.response, { status })

const requestFrame = <A>(
  command: number,
  codec: PayloadCodec<A>,
  value: A,
): Uint8Array<ArrayBuffer> => {
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
  spec: ProtocolSpec = newest,
): RequestOf<C> => decodePayload(command, requestCodec(command, spec), payload) as RequestOf<C>

/** The whole response, header included. Throws `ProtocolError` for a command without a response. */
export const encodeResponse = <C extends MessageId>(
  command: C,
  value: ResponseOf<C>,
  spec: ProtocolSpec = newest,
): Uint8Array<ArrayBuffer> => {
  return responseFrame(responseCodec(command, spec), value)
}

const responseFrame = <A>(codec: PayloadCodec<A>, value: A): Uint8Array<ArrayBuffer> => {
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
  spec: ProtocolSpec = newest,
): ResponseOf<C> => decodePayload(command, responseCodec(command, spec), payload) as ResponseOf<C>
