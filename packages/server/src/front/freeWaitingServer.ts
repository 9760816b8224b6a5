import { isIPv4 } from "node:net"
import { isDialable } from "../session/ports.ts"
import { isOnThisMachine } from "./peers.ts"

/** In all, and between two tries: the other server may not listen yet. */
const DEADLINE_MS = 5000
const INTERVAL_MS = 250

/** What clients may make this server dial at a time. */
const MAX_DIALS = 4

let dialCount = 0

/**
 * Whether a client's word is enough to dial an address: one of a private network, or, of a client on this machine, one of
 * this machine.
 */
export const mayDial = (host: string, port: number, client: string): boolean => {
  if (!isIPv4(host) || !isDialable(port)) return false
  const [a, b] = host.split(".").map(Number) as [number, number]
  if (a === 127) return isOnThisMachine(client)
  return a === 10 || (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168)
}

/**
 * A server of upstream's that was asked to link with this one waits until somebody dials it, and its client with it
 * (ggml-rpc.cpp, COMM_INIT, 8.0.0). A connection that closes without a byte frees both. `client`: the address of who asks.
 *
 * Returns why it was not tried; undefined when it is under way. It ends by itself, after 5 s at most.
 */
export const freeWaitingServer = (
  host: string,
  port: number,
  client: string,
): string | undefined => {
  if (!mayDial(host, port, client)) return "its address is not one of a private network"
  if (dialCount >= MAX_DIALS) return "others are being dialled"
  dialCount++
  void dial(host, port).finally(() => dialCount--)
  return undefined
}

const dial = async (host: string, port: number): Promise<void> => {
  const deadline = performance.now() + DEADLINE_MS
  while (performance.now() < deadline) {
    if (await knock(host, port, deadline - performance.now())) return
    await new Promise<void>((resolve) => {
      setTimeout(resolve, INTERVAL_MS).unref()
    })
  }
}

/** Whether a connection came about in time, which is closed at once; one that comes later is as well. */
const knock = (host: string, port: number, timeoutMs: number): Promise<boolean> => {
  const connected = Bun.connect({ hostname: host, port, socket: { data() {} } }).then(
    (socket) => {
      socket.end()
      return true
    },
    () => false,
  )
  const late = new Promise<boolean>((resolve) => {
    setTimeout(() => resolve(false), timeoutMs).unref()
  })
  return Promise.race([connected, late])
}
