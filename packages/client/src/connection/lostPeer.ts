/**
 * Which of the servers that add up sums together has failed the others. A session tells the one that failed it, as its last word before it
 * ends; that one may have ended because of a third, which its own last word tells.
 */
import { io } from "@ggml-rpc/native/bindings"
import { PeerFault } from "@ggml-rpc/protocol"
import { type ClusterError, ServerLostError, ServerTimeoutError } from "../errors.ts"
import { Readiness } from "./moveBytes.ts"
import type { RpcConnection } from "./RpcConnection.ts"

/** How long last words are waited for: sessions that end do so at once. */
const PATIENCE_MS = 500

/** What becomes of all servers that are linked with `first`, which has said its last word. */
export const failureOf = (first: RpcConnection): ClusterError => lostError(culpritOf(first))

/**
 * Which of these servers stalls, none of which has moved a byte for `silenceMs`: told that nothing more comes from here, each that waits
 * for another one says for whom. undefined when none does.
 */
export const stallOf = (
  linked: ReadonlyArray<RpcConnection>,
  silenceMs: number,
): ClusterError | undefined => {
  for (const { fd } of linked) io().io_shutdown(fd)
  hear(linked)
  const first = linked.find(({ lastWord }) => lastWord !== undefined)
  if (first === undefined) return undefined
  const culprit = culpritOf(first)
  if (culprit.fault !== PeerFault.AWAITED) return lostError(culprit)
  const { endpoint, teller, isMutual } = culprit
  const who = isMutual ? { awaits: teller } : { awaitedBy: teller }
  return new ServerTimeoutError({ endpoint, during: DURING, silenceMs, ...who })
}

interface Culprit {
  readonly endpoint: string
  /** The server that said so. */
  readonly teller: string
  /** See `PeerFault`. */
  readonly fault: number
  /** It says the like of the one that said so: what failed is between the two. */
  readonly isMutual: boolean
}

const culpritOf = (first: RpcConnection): Culprit => {
  const passed = new Set<RpcConnection | undefined>([first])
  let teller = first
  for (;;) {
    const { place, fault } = teller.lastWord!
    const other = teller.linked[place] ?? teller
    passed.add(other)
    // What was wrong is its own doing, whatever happened to it.
    if (fault !== PeerFault.WRONG) hear([other])
    const next = fault === PeerFault.WRONG ? undefined : other.lastWord
    const then = next === undefined ? undefined : other.linked[next.place]
    if (next === undefined || (next.fault !== PeerFault.WRONG && passed.has(then))) {
      const isMutual = then === teller
      return { endpoint: other.endpoint, teller: teller.endpoint, fault, isMutual }
    }
    teller = other
  }
}

/** Reads until each of these has said its last word, ended without one, or was listened to for long enough. */
const hear = (servers: ReadonlyArray<RpcConnection>): void => {
  for (const server of servers) server.listenForEnd()
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const open = servers.filter(({ hasEnded }) => !hasEnded)
    const leftMs = deadline - performance.now()
    if (open.length === 0) return
    if (leftMs <= 0) {
      for (const server of open) server.hasEnded = true
      return
    }
    const polled = Int32Array.from(open.flatMap(({ fd }) => [fd, Readiness.READ]))
    io().io_poll(polled, open.length, leftMs)
    for (const [index, server] of open.entries()) {
      if (polled[2 * index + 1]! >>> 16 !== 0) server.takeBytes(false)
    }
  }
}

const DURING = "ALL_REDUCE"

const lostError = ({ endpoint, ...culprit }: Culprit): ServerLostError =>
  new ServerLostError({ endpoint, during: DURING, detail: detailOf(culprit) })

const detailOf = ({ teller, fault, isMutual }: Omit<Culprit, "endpoint">): string => {
  if (isMutual) return `its link to ${teller} broke`
  switch (fault) {
    case PeerFault.LEFT:
      return `it ended its link to ${teller}`
    case PeerFault.SILENT:
      return `its part of a sum did not come to ${teller} in time`
    case PeerFault.WRONG:
      return `it sent ${teller} something else than its part of a sum`
    default:
      return `its part of a sum did not come to ${teller}, whose log says why`
  }
}
