import { writeU64FromNumber } from "./u64.ts"

/** `u8 command, u64 payload_size`. */
export const REQUEST_HEADER_SIZE_BYTES = 9

/** `u64 payload_size`; a response names no command and has no status. */
export const RESPONSE_HEADER_SIZE_BYTES = 8

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
