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

/** What a server said of another one of its group. */
export interface LastWord {
  readonly peer: RpcConnection
  /** See `PeerFault`. */
  readonly fault: number
}

/** What becomes of all servers that are linked with `first`, which has said its last word. */
export const failureOf = (first: RpcConnection): ClusterError => {
  // All end now: what fails on the way is no other reason.
  for (const server of first.linked) server.listenForEnd()
  return lostError(culpritOf(first))
}

/** The same of a linked server to which nothing can be sent any more; undefined when its end is its own. */
export const reasonOf = (server: RpcConnection): ClusterError | undefined => {
  if (server.linked.length === 0) return undefined
  hear([server])
  return server.lastWord && failureOf(server)
}

/**
 * Which of these servers stalls, none of which has moved a byte for `silenceMs`: told that nothing more comes from here, each that waits
 * for another one says for whom. undefined when none does; all of them where the one that is waited for cannot have been told.
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
  const { server, teller, isMutual } = culprit
  const silent = { endpoint: server.endpoint, during: DURING, silenceMs }
  if (server.lastWord === undefined && server.isUnreached) {
    const others = linked.filter((one) => one !== server).map(({ endpoint }) => endpoint)
    return new ServerTimeoutError({ ...silent, others })
  }
  const { endpoint } = teller
  return new ServerTimeoutError({
    ...silent,
    ...(isMutual ? { awaits: endpoint } : { awaitedBy: endpoint }),
  })
}

interface Culprit {
  readonly server: RpcConnection
  /** The server that said so. */
  readonly teller: RpcConnection
  /** See `PeerFault`. */
  readonly fault: number
  /** It says the like of the one that said so: what failed is between the two. */
  readonly isMutual: boolean
}

const culpritOf = (first: RpcConnection): Culprit => {
  const passed = new Set([first])
  let teller = first
  for (;;) {
    const { peer: server, fault } = teller.lastWord!
    passed.add(server)
    // What was wrong is its own doing, whatever happened to it.
    if (fault !== PeerFault.WRONG) hear([server])
    const next = fault === PeerFault.WRONG ? undefined : server.lastWord
    if (next === undefined || (next.fault !== PeerFault.WRONG && passed.has(next.peer))) {
      return { server, teller, fault, isMutual: next?.peer === teller }
    }
    teller = server
  }
}

/** Reads until each of these has said its last word, ended without one, or was listened to for long enough. */
const hear = (servers: ReadonlyArray<RpcConnection>): void => {
  for (const server of servers) server.listenForEnd()
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const open = servers.filter(mayTell)
    const leftMs = deadline - performance.now()
    if (open.length === 0) return
    if (leftMs <= 0) {
      for (const server of open) server.hasEnded = true
      return
    }
    const polled = Int32Array.from(open.flatMap(({ fd }) => [fd, Readiness.READ]))
    io().io_poll(polled, open.length, leftMs)
    for (const [index, server] of open.entries()) {
      if (polled[2 * index + 1]! >>> 16 !== 0 && mayTell(server)) server.takeBytes(false)
    }
  }
}

/** One that answered even what nobody asked has nothing left to say. */
const mayTell = ({ hasEnded, isOwed }: RpcConnection): boolean => isOwed && !hasEnded

const DURING = "ALL_REDUCE"

const lostError = (culprit: Culprit): ServerLostError =>
  new ServerLostError({
    ...{ endpoint: culprit.server.endpoint, during: DURING, detail: detailOf(culprit) },
  })

const detailOf = ({ teller: { endpoint: teller }, fault, isMutual }: Culprit): string => {
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
