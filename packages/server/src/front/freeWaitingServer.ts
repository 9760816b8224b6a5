import { isIPv4 } from "node:net"

/** Tries, and the time between them: the other server may not listen yet. */
const TRIES = 20
const INTERVAL_MS = 250

/** What a client may make this server dial at a time. */
const MAX_DIALS = 4

/** Ports below belong to the system's services. */
const FIRST_PORT = 1024

let dialCount = 0

/** Whether a client's word is enough to dial an address: one of this machine, or of a private network. */
export const mayDial = (host: string, port: number): boolean => {
  if (!isIPv4(host) || port < FIRST_PORT || port > 65535) return false
  const [a, b] = host.split(".").map(Number) as [number, number]
  return a === 127 || a === 10 || (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168)
}

/**
 * A server of upstream's that was asked to link with this one waits until somebody dials it, and its client with it
 * (ggml-rpc.cpp, COMM_INIT, 8.0.0). A connection that closes without a byte frees both.
 *
 * Returns why it was not tried; undefined when it is under way. It ends by itself, after 5 s at most.
 */
export const freeWaitingServer = (host: string, port: number): string | undefined => {
  if (!mayDial(host, port)) return "its address is not one of a private network"
  if (dialCount >= MAX_DIALS) return "others are being dialled"
  dialCount++
  void dial(host, port).finally(() => dialCount--)
  return undefined
}

const dial = async (host: string, port: number): Promise<void> => {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    try {
      const socket = await Bun.connect({ hostname: host, port, socket: { data() {} } })
      socket.end()
      return
    } catch {
      await new Promise<void>((resolve) => {
        setTimeout(resolve, INTERVAL_MS).unref()
      })
    }
  }
}
