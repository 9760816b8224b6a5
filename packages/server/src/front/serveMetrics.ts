import { formatEndpoint } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ListenError, PortInUseError } from "./errors.ts"
import { listenError } from "./listen.ts"

/** Where metrics are asked for. */
export interface MetricsAddress {
  /** Default 127.0.0.1. */
  readonly host?: string
  /** 0 picks a free one. */
  readonly port: number
}

const plainText = { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } }

/** Serves `/metrics` and `/healthz` by HTTP until the scope closes; returns the endpoint. */
export const serveMetrics = (
  { host = "127.0.0.1", port }: MetricsAddress,
  text: () => string,
): Effect.Effect<string, PortInUseError | ListenError, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () =>
          Bun.serve({
            hostname: host,
            port,
            routes: {
              "/metrics": { GET: () => new Response(text(), plainText) },
              "/healthz": { GET: () => new Response("ok\n", plainText) },
            },
            fetch: () => new Response("there are /metrics and /healthz\n", { status: 404 }),
          }),
        catch: (cause) => listenError(formatEndpoint({ host, port }), cause),
      }),
      (server) => Effect.promise(() => server.stop(true)),
    ),
    (server) => formatEndpoint({ host, port: server.port ?? port }),
  )
