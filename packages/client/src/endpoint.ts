/** Where a server listens. */
import { TaggedError } from "@ggml-rpc/native/bindings"

export interface Endpoint {
  /** Name, IPv4 address, or IPv6 address without brackets. */
  readonly host: string
  readonly port: number
  /**
   * Operations of the ggml there (`GGML_OP_COUNT`). Only for servers of a version that several builds speak with other
   * numbers for their operations, and only to spare them the question.
   */
  readonly operationCount?: number
}

/** Text that is no `host:port`. */
export class EndpointError extends TaggedError("EndpointError")<{
  readonly text: string
  readonly reason: string
}> {
  override get message() {
    return `'${this.text}' is not an endpoint: ${this.reason}. Write host:port, such as 192.168.1.5:50052, or [fd00::5]:50052 for IPv6.`
  }
}

/** `host:port`, with brackets around an IPv6 address. */
export const formatEndpoint = (endpoint: Endpoint): string =>
  endpoint.host.includes(":")
    ? `[${endpoint.host}]:${endpoint.port}`
    : `${endpoint.host}:${endpoint.port}`
