import { formatEndpoint, type ProtocolSpec } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { AcceptedSocket, Admission } from "./Admission.ts"
import { ListenError, PortInUseError } from "./errors.ts"
import type { TlsIdentity } from "./identity.ts"

export interface ListenOptions {
  readonly pinned?: ProtocolSpec | undefined
  /** A certificate and its key, PEM. */
  readonly tls?: TlsIdentity | undefined
}

/** Listens, and gives every connection to `admission`, to be served in `pinned` if that is given; returns the port. */
export const listen = (
  host: string,
  port: number,
  admission: Admission,
  { pinned, tls }: ListenOptions = {},
): Effect.Effect<number, PortInUseError | ListenError, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () =>
          Bun.listen<AcceptedSocket["data"]>({
            hostname: host,
            port,
            socket: admission.handlers(pinned),
            ...(tls === undefined ? {} : { tls }),
          }),
        catch: (cause) => listenError(formatEndpoint({ host, port }), cause),
      }),
      (listener) => Effect.sync(() => listener.stop(true)),
    ),
    (listener) => listener.port,
  )

/** A connection's own descriptor, which Bun's types leave out. */
export const ownDescriptor = (socket: AcceptedSocket): number =>
  (socket as { readonly fd?: number }).fd ?? -1

/** What the system's words for it do not say. Bun's own text names no cause. */
const listenReasons: Readonly<Record<string, string>> = {
  EADDRNOTAVAIL: "no network interface of this machine has this address",
  EACCES: "this needs privileges",
}

/** Why a port cannot be listened on. */
export const listenError = (endpoint: string, cause: unknown): PortInUseError | ListenError => {
  const code = String((cause as { readonly code?: unknown } | null)?.code ?? "")
  if (code === "EADDRINUSE") return new PortInUseError({ endpoint })
  const said = cause instanceof Error ? cause.message : String(cause)
  return new ListenError({ endpoint, reason: listenReasons[code] ?? said, cause })
}
