import { lookup } from "node:dns/promises"
import { isIP } from "node:net"
import { LinkStatus } from "@ggml-rpc/protocol"
import { LinkGreeting } from "./LinkGreeting.ts"

/** Whom to connect to, and what to show there. */
export interface PeerTarget {
  readonly host: string
  readonly port: number
  readonly key: Uint8Array
  /** This server's, which the other one may ask for. */
  readonly token: string | undefined
}

/** A connection that the other server has taken for a session of its own, or why there is none. */
export type Dialled =
  | { readonly socket: { close(): void }; readonly fd: number }
  | { readonly status: number; readonly reason: string }

const lost = (reason: string): Dialled => ({ status: LinkStatus.UNREACHABLE, reason })

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const addressesOf = async (host: string): Promise<readonly string[]> =>
  isIP(host) !== 0 ? [host] : (await lookup(host, { all: true })).map(({ address }) => address)

/** A connection that is under way. */
export interface Dial {
  /** Never rejects. */
  readonly dialled: Promise<Dialled>
  /** Settles when nothing goes on for it any more: the system cannot be told to stop looking a name up, or to give a host up. */
  readonly ended: Promise<void>
}

/**
 * Connects to another server and shows it the key. Looks a name up, and connects to the very address that was looked at: a name may
 * mean another one the next time. Gives up when `signal` says so. That a name means no address that this server may connect to
 * is only said in the reason: which names there are is nobody else's business.
 */
export const dialPeer = (
  target: PeerTarget,
  mayDial: (address: string) => boolean,
  signal: AbortSignal,
): Dial => {
  const { promise: dialled, resolve } = Promise.withResolvers<Dialled>()
  signal.addEventListener("abort", () => resolve(lost("did not answer in time")), { once: true })
  const ended = dial(target, mayDial, signal, resolve).catch((error: unknown) =>
    resolve(lost(`cannot be reached: ${textOf(error)}`)),
  )
  return { dialled, ended }
}

const dial = async (
  target: PeerTarget,
  mayDial: (address: string) => boolean,
  signal: AbortSignal,
  resolve: (result: Dialled) => void,
): Promise<void> => {
  const { host } = target
  if (host === "") return resolve(lost("is no address"))
  const addresses = await addressesOf(host).catch((error: unknown) => {
    resolve(lost(`cannot be looked up: ${textOf(error)}`))
    return []
  })
  if (signal.aborted || addresses.length === 0) return resolve(lost("has no address"))
  const address = addresses.find(mayDial)
  if (address !== undefined) return await connect(address, target, signal, resolve)
  const reason = `(${addresses.join(", ")}) is no address that this server may connect to for this client (--peers)`
  resolve({ status: isIP(host) === 0 ? LinkStatus.UNREACHABLE : LinkStatus.NOT_ALLOWED, reason })
}

const NOT_EXPECTED = "closed the connection: it expects no such link"
const NO_TOKEN = `${NOT_EXPECTED}, or it asks for a token (--token-file), which this server has not`

/** Settles when there is a connection or none, which `resolve` may be told later. */
const connect = async (
  address: string,
  target: PeerTarget,
  signal: AbortSignal,
  resolve: (result: Dialled) => void,
  closedReason = target.token === undefined ? NO_TOKEN : NOT_EXPECTED,
): Promise<void> => {
  const { port, key, token } = target
  const greeting = new LinkGreeting(key, token)
  let isHandedOver = false
  const lose = (reason: string): void => resolve(lost(reason))
  // By this side, which goes on elsewhere.
  let isLeft = false
  const hangUp = (reason = closedReason): void => {
    if (!isLeft) lose(reason)
  }
  const handlers = {
    open: (socket: PeerSocket) => {
      const end = (): void => {
        if (!isHandedOver) socket.terminate()
      }
      if (signal.aborted) end()
      else signal.addEventListener("abort", end, { once: true })
      socket.write(greeting.first)
    },
    data: (socket: PeerSocket, bytes: Uint8Array) => {
      const verdict = greeting.receive(bytes)
      if (verdict === "more") return
      if (verdict === "linked" && !signal.aborted) {
        // What comes next is the session's to read.
        socket.pause()
        isHandedOver = true
        resolve({ socket, fd: socket.fd })
      } else if (typeof verdict === "object" && "send" in verdict) socket.write(verdict.send)
      else {
        if (verdict === "no gate") {
          const open = { ...target, token: undefined }
          void connect(address, open, signal, resolve, NOT_EXPECTED)
        } else if (typeof verdict === "object") lose(verdict.reason)
        isLeft = true
        socket.terminate()
      }
    },
    close: () => hangUp(),
    end: (socket: PeerSocket) => {
      hangUp()
      socket.terminate()
    },
    error: (_: PeerSocket, error: Error) => hangUp(`failed: ${error.message}`),
  }
  // `fd` is not in Bun's types.
  const options = { hostname: address, port, socket: handlers } as never
  try {
    await Bun.connect(options)
  } catch (error) {
    lose(`cannot be reached: ${textOf(error)}`)
  }
}

/** A socket of Bun's. */
interface PeerSocket {
  readonly fd: number
  write(bytes: Uint8Array): number
  pause(): void
  close(): void
  terminate(): void
}
