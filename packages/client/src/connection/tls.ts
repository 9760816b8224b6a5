/**
 * Connections to servers over TLS. The engine waits on plain descriptors, so this process encrypts: it passes bytes between the
 * connection and a pair of sockets, whose other end the engine gets.
 */
import { io, Pump, type PumpedSocket } from "@ggml-rpc/native/bindings"
import { type Endpoint, formatEndpoint } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { AccessError, ConnectError } from "../errors.ts"
import { connectReason } from "./connectReason.ts"

/** Whom to believe. */
export interface TlsTrust {
  /** Certificates of authorities, PEM. Default: those of the system. */
  readonly ca?: string
  /** SHA-256 of servers' certificates, in hex, with colons or without: one of them, whoever signed it. */
  readonly fingerprints?: readonly string[]
}

/** Whether a server is spoken to by TLS: as its endpoint says, else wherever there is something to trust. */
export const usesTls = ({ transport }: Endpoint, trust: TlsTrust | undefined): boolean =>
  transport === undefined ? trust !== undefined : transport === "tls"

/** A Bun socket of TLS, as far as it is used here. */
interface TlsSocket extends PumpedSocket {
  readonly getPeerCertificate: () => { readonly fingerprint256?: string } | undefined
}

export interface TlsEvents {
  readonly data: (bytes: Uint8Array) => void
  readonly drain: () => void
  /** Once. */
  readonly end: () => void
}

const plain = (fingerprint: string): string => fingerprint.replace(/[^0-9a-f]/gi, "").toLowerCase()

/** What is wrong with the certificate that was shown, if anything. */
const distrustOf = (
  socket: TlsSocket,
  problem: Error | null | undefined,
  { fingerprints }: TlsTrust,
): string | undefined => {
  const shown = socket.getPeerCertificate()?.fingerprint256 ?? ""
  const seen = `its certificate has the fingerprint ${shown}`
  if (fingerprints === undefined) {
    return problem ? `${problem.message.replace(/[:.\s]+$/, "")}; ${seen}` : undefined
  }
  return fingerprints.some((known) => plain(known) === plain(shown)) ? undefined : seen
}

/** No name: there is none to ask a certificate for. */
const isAddress = (host: string): boolean => host.includes(":") || /^[\d.]+$/.test(host)

/** A connection whose certificate is believed; not a byte was sent before. `events` get what comes of it. */
export const connectTls = (
  endpoint: Endpoint,
  trust: TlsTrust,
  timeoutMs: number,
  events: TlsEvents,
): Effect.Effect<PumpedSocket, AccessError | ConnectError, Scope.Scope> => {
  const name = formatEndpoint(endpoint)
  const connecting = Effect.async<PumpedSocket, AccessError | ConnectError>((resume) => {
    let isTrusted = false
    let opened: PumpedSocket | undefined
    const failWith = (error: AccessError | ConnectError): void => {
      // First: the end of the connection is an event, too.
      resume(Effect.fail(error))
      opened?.terminate()
    }
    const refuse = (reason: "no-tls" | "untrusted", detail: string): void =>
      failWith(new AccessError({ endpoint: name, reason, detail }))
    const over = (): void => {
      if (isTrusted) events.end()
      else refuse("no-tls", "")
    }
    Bun.connect({
      hostname: endpoint.host,
      port: endpoint.port,
      tls: {
        rejectUnauthorized: false,
        ...(trust.ca === undefined ? {} : { ca: trust.ca }),
        ...(isAddress(endpoint.host) ? {} : { serverName: endpoint.host }),
      },
      socket: {
        open: (socket) => {
          opened = socket as unknown as PumpedSocket
        },
        handshake: (socket, isDone, problem) => {
          const tls = socket as unknown as TlsSocket
          const distrust = distrustOf(tls, problem, trust)
          if (!isDone && tls.getPeerCertificate() === undefined) {
            refuse("no-tls", "")
            return
          }
          if (distrust !== undefined) {
            refuse("untrusted", distrust)
            return
          }
          isTrusted = true
          resume(Effect.succeed(tls))
        },
        data: (_, bytes) => events.data(bytes),
        drain: () => events.drain(),
        end: over,
        close: over,
        error: over,
      },
    }).catch((cause: unknown) =>
      failWith(
        new ConnectError({
          endpoint: name,
          reason: connectReason(cause),
          detail: cause instanceof Error ? cause.message : String(cause),
        }),
      ),
    )
    return Effect.sync(() => opened?.terminate())
  })
  // Not acquireRelease: there the timeout would wait for the system's, two minutes.
  return Effect.uninterruptibleMask((restore) =>
    restore(connecting).pipe(
      Effect.timeoutFail({
        duration: timeoutMs,
        onTimeout: () => new ConnectError({ endpoint: name, reason: "timeout", detail: "" }),
      }),
      Effect.tap((socket) => Effect.addFinalizer(() => Effect.sync(() => socket.terminate()))),
    ),
  )
}

/**
 * A descriptor that stands for a connection over TLS, until the scope closes; the caller passes it on and closes its own
 * copy.
 */
export const openTls = (
  endpoint: Endpoint,
  trust: TlsTrust,
  timeoutMs: number,
): Effect.Effect<number, AccessError | ConnectError, Scope.Scope> =>
  Effect.gen(function* () {
    let pump: Pump | undefined
    const socket = yield* connectTls(endpoint, trust, timeoutMs, {
      data: (bytes) => pump?.receive(bytes),
      drain: () => pump?.drain(),
      end: () => pump?.end(),
    })
    const made = new Pump(socket)
    pump = made
    yield* Effect.addFinalizer(() => Effect.sync(() => made.close()))
    return made.far
  })

/** Closes this process's copies of descriptors. */
export const closeAll = (descriptors: readonly number[]): void => {
  for (const descriptor of descriptors) io().io_close(descriptor)
}
