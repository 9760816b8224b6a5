import {
  Command,
  describeCommand,
  ProtocolError,
  REQUEST_HEADER_SIZE_BYTES,
} from "@ggml-rpc/protocol"
import { HELLO_BYTES, OLD_HELLO_BYTES } from "./spoken.ts"

/** The most that a HELLO has, with its header. */
export const MAX_HELLO_BYTES = REQUEST_HEADER_SIZE_BYTES + HELLO_BYTES

/**
 * Payload bytes of the HELLO that `bytes` begin with, as far as its header is there; undefined before. Its payload may be
 * missing yet.
 *
 * @throws {ProtocolError} as soon as it can be none
 */
export const helloPayloadBytes = (bytes: Uint8Array): number | undefined => {
  const [command] = bytes
  if (command === undefined) return undefined
  if (command !== Command.HELLO) {
    throw new ProtocolError({
      command: describeCommand(command),
      field: "command",
      reason: "must be HELLO on a new connection",
      value: describeCommand(command),
    })
  }
  if (bytes.length < REQUEST_HEADER_SIZE_BYTES) return undefined
  const size = new DataView(bytes.buffer, bytes.byteOffset + 1, 8).getBigUint64(0, true)
  const sizeBytes = Number(size)
  if (sizeBytes !== HELLO_BYTES && sizeBytes !== OLD_HELLO_BYTES) {
    const reason = `must be ${HELLO_BYTES}, or ${OLD_HELLO_BYTES} from an older client`
    throw new ProtocolError({ command: "HELLO", field: "payload_size", reason, value: size })
  }
  return sizeBytes
}
