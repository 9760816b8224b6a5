/** What a `ProtocolError` says; every part is for the log line that ends a session. */
export interface ProtocolErrorFields {
  /** Command name (`"SET_TENSOR"`), or the raw id as text when it has no name; absent for bare structs. */
  readonly command?: string | undefined
  /** The offending field, such as `"payload_size"` or `"RpcTensor.ne"`. */
  readonly field: string
  /** What is wrong and what was expected, as a clause: `"must be 12 bytes"`. */
  readonly reason: string
  /** The value that was seen. */
  readonly value?: number | bigint | string | undefined
}

/**
 * Bytes or values that are not ggml RPC. Whatever bytes a decoder is given, it returns a value or throws this.
 * The only other error to expect of this package is `EndpointError`, for texts.
 */
export class ProtocolError extends Error {
  readonly _tag = "ProtocolError"
  override readonly name = "ProtocolError"
  readonly command: string | undefined
  readonly field: string
  readonly reason: string
  readonly value: number | bigint | string | undefined

  constructor(fields: ProtocolErrorFields) {
    const where = fields.command === undefined ? "" : `${fields.command}: `
    const seen = fields.value === undefined ? "" : ` (got ${fields.value})`
    super(`${where}${fields.field} ${fields.reason}${seen}`)
    this.command = fields.command
    this.field = fields.field
    this.reason = fields.reason
    this.value = fields.value
  }
}
