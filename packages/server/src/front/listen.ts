import { formatEndpoint, type ProtocolSpec } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { ListenError, PortInUseError } from "./errors.ts"
import type { SessionPool } from "./SessionPool.ts"

/** Listens, and gives every connection to the pool, to be served in `pinned` if that is given; returns the port. */
export const listen = (
  host: string,
  port: number,
  pool: SessionPool,
  pinned?: ProtocolSpec,
): Effect.Effect<number, PortInUseError | ListenError, Scope.Scope> => {
  const endpoint = formatEndpoint({ host, port })
  return Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () =>
          Bun.listen({
            hostname: host,
            port,
            socket: {
              open(socket) {
                // Not a byte may be read here: the session reads them all.
                socket.pause()
                pool.assign(
                  descriptorOf(socket),
                  formatEndpoint({ host: socket.remoteAddress, port: socket.remotePort }),
                  pinned,
                )
                // Closes this process's copy only; `end` and `terminate` act on the connection.
                socket.close()
              },
              data() {},
              error() {},
            },
          }),
        catch: (cause) => listenError(endpoint, cause),
      }),
      (listener) => Effect.sync(() => listener.stop(true)),
    ),
    (listener) => listener.port,
  )
}

/** Bun's types leave `fd` out. */
const descriptorOf = (socket: object): number => (socket as { readonly fd: number }).fd

/** What the system's words for it do not say. Bun's own text names no cause. */
const listenReasons: Readonly<Record<string, string>> = {
  EADDRNOTAVAIL: "no network interface of this machine has this address",
  EACCES: "this needs privileges",
}

const listenError = (endpoint: string, cause: unknown): PortInUseError | ListenError => {
  const code = String((cause as { readonly code?: unknown } | null)?.code ?? "")
  if (code === "EADDRINUSE") return new PortInUseError({ endpoint })
  const said = cause instanceof Error ? cause.message : String(cause)
  return new ListenError({ endpoint, reason: listenReasons[code] ?? said, cause })
}
