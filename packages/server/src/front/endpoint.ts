/** `host:port`; an IPv6 address goes into brackets. */
export const endpointOf = (host: string, port: number): string =>
  `${host.includes(":") ? `[${host}]` : host}:${port}`

/** Whether only this machine can reach an address that a server is bound to. */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host)
