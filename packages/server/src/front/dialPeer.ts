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

/**
 * Connects to another server and shows it the key. Looks a name up, and connects to the very address that was looked at: a name may
 * mean another one the next time. Never rejects; ends when `signal` does.
 */
export const dialPeer = async (
  target: PeerTarget,
  mayDial: (address: string) => boolean,
  signal: AbortSignal,
): Promise<Dialled> => {
  const { promise, resolve } = Promise.withResolvers<Dialled>()
  const lose = (reason: string): void => resolve(lost(reason))
  signal.addEventListener("abort", () => lose("did not answer in time"), { once: true })
  if (target.host === "") return lost("is no address")
  addressesOf(target.host).then(
    (addresses) => {
      const address = addresses.find(mayDial)
      if (signal.aborted) return
      if (address !== undefined) connect(address, target, signal, resolve)
      else {
        const reason = `(${addresses.join(", ")}) is no address that this server may connect to (--peers)`
        resolve({ status: LinkStatus.NOT_ALLOWED, reason })
      }
    },
    (error: unknown) => lose(`cannot be looked up: ${textOf(error)}`),
  )
  return await promise
}

const connect = (
  address: string,
  target: PeerTarget,
  signal: AbortSignal,
  resolve: (result: Dialled) => void,
): void => {
  const { port, key, token } = target
  const greeting = new LinkGreeting(key, token)
  let isHandedOver = false
  const lose = (reason: string): void => resolve(lost(reason))
  // By this side, which goes on elsewhere.
  let isLeft = false
  const hangUp = (reason = "closed the connection: it expects no such link"): void => {
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
        if (verdict === "no gate")
          connect(address, { ...target, token: undefined }, signal, resolve)
        else if (typeof verdict === "object") lose(verdict.reason)
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
  Bun.connect(options).catch((error: unknown) => lose(`cannot be reached: ${textOf(error)}`))
}

/** A socket of Bun's. */
interface PeerSocket {
  readonly fd: number
  write(bytes: Uint8Array): number
  pause(): void
  close(): void
  terminate(): void
}
