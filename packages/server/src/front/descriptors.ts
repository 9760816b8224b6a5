import { readdirSync } from "node:fs"
import { io } from "@ggml-rpc/native/bindings"

/** What this process has open for a session: the channel, two pipes, and what tells of its end. */
const PER_SESSION = 4

/** For what comes and goes: the other ends of a process that starts, a file, a dial. */
const RESERVE = 16

/** A server whose connections cannot all be accepted spins: so many at least may be silent at a time. */
const MIN_HANDSHAKES = 8

/** Where the system does not say what is open. */
const ASSUMED_OPEN = 32

export interface DescriptorShares {
  /** Clients at a time. */
  readonly clients: number
  /** Connections at a time that have not said HELLO. */
  readonly handshakes: number
}

/** What is wanted, as far as `free` descriptors are enough for it. At least one client. */
export const shareDescriptors = (free: number, wanted: DescriptorShares): DescriptorShares => {
  const forClients = free - RESERVE - MIN_HANDSHAKES
  // Each client may have a spare started behind it.
  const clients = Math.min(wanted.clients, Math.max(1, Math.floor(forClients / PER_SESSION) - 1))
  const left = free - RESERVE - PER_SESSION * (clients + 1)
  return { clients, handshakes: Math.min(wanted.handshakes, Math.max(MIN_HANDSHAKES, left)) }
}

export const descriptorLimit = (): number => {
  const limit = io().io_descriptor_limit()
  return limit < 0 ? Number.POSITIVE_INFINITY : limit
}

/** Descriptors that this process has open. */
export const openDescriptors = (): number => {
  try {
    return readdirSync("/proc/self/fd").length
  } catch {
    return ASSUMED_OPEN
  }
}
