/** Where a server listens, as people and messages write it. */

export interface Endpoint {
  /** Name, IPv4 address, or IPv6 address without brackets. */
  readonly host: string
  readonly port: number
  /** Whether it is spoken to in plain or over TLS; undefined: as the client is told otherwise. */
  readonly transport?: "tcp" | "tls"
  /**
   * Operations of the ggml there (`GGML_OP_COUNT`). Only for servers of a version that several builds speak with other
   * numbers for their operations, and only to spare them the question.
   */
  readonly operationCount?: number
}

/** Text that is no `host:port`. */
export class EndpointError extends Error {
  readonly _tag = "EndpointError"
  readonly text: string
  /** What is wrong with it, as a clause: `"the port is missing"`. */
  readonly reason: string

  constructor(fields: { readonly text: string; readonly reason: string }) {
    super(
      `'${fields.text}' is not an endpoint: ${fields.reason}. Write host:port, such as 192.168.1.5:50052, or [fd00::5]:50052 for IPv6.`,
    )
    this.text = fields.text
    this.reason = fields.reason
  }
}
EndpointError.prototype.name = "EndpointError"

/** `host:port`, with brackets around an IPv6 address. */
export const formatEndpoint = ({ host, port }: Endpoint): string =>
  `${host.includes(":") ? `[${host}]` : host}:${port}`

/** Whether only this machine can reach an address that a server is bound to. */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host)

/**
 * The endpoint of a text such as `box:50052` or `[::1]:50052`.
 *
 * @throws {EndpointError}
 */
export const parseEndpoint = (text: string): Endpoint => {
  const fail = (reason: string) => new EndpointError({ text, reason })
  const trimmed = text.trim()
  if (trimmed === "") throw fail("it is empty")
  const [, scheme, address = ""] = /^(?:([a-z][a-z0-9+.-]*):\/\/)?(.*)$/is.exec(trimmed) ?? []
  if (scheme !== undefined && scheme !== "tcp" && scheme !== "tls") {
    throw fail("it is a URL, of which only tcp:// and tls:// are known")
  }
  if (/[\s;]/.test(address)) throw fail("several are separated by commas")
  const bracketed = address.match(/^\[([^\]]*)\](.*)$/)
  if (bracketed === null && (address.match(/:/g)?.length ?? 0) > 1) {
    throw fail(
      /^[0-9a-f:.]+(%.*)?$/i.test(address)
        ? "an IPv6 address needs brackets around it"
        : "it has more than one ':', and only one port",
    )
  }
  const colon = address.lastIndexOf(":")
  const host = bracketed ? bracketed[1]! : colon < 0 ? address : address.slice(0, colon)
  const rest = bracketed ? bracketed[2]! : colon < 0 ? "" : address.slice(colon)
  if (host === "") throw fail("the host is missing")
  if (!rest.startsWith(":") || rest === ":") throw fail("the port is missing")
  const port = rest.slice(1)
  if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65535) {
    throw fail(`the port '${port}' is not a number from 1 to 65535`)
  }
  return { host, port: Number(port), ...(scheme === undefined ? {} : { transport: scheme }) }
}

/**
 * A comma-separated list; empty parts are dropped, duplicates kept once.
 *
 * @throws {EndpointError} for the first that is none
 */
export const parseEndpoints = (text: string): readonly Endpoint[] => {
  const found = new Map<string, Endpoint>()
  for (const part of text.split(",")) {
    if (part.trim() === "") continue
    const endpoint = parseEndpoint(part)
    found.set(formatEndpoint(endpoint), endpoint)
  }
  return [...found.values()]
}
