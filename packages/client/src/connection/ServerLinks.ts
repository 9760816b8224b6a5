/**
 * Links between the servers of a client, over which these add up partial sums by themselves. A server's session has one group of
 * them, so all that this process computes over the same servers shares it: every server is asked for the same sums in the same order.
 */
import {
  extensionCommands,
  LINK_KEY_BYTES,
  LinkStatus,
  MAX_LINKED_SERVERS,
} from "@ggml-rpc/protocol"
import { describeLacking } from "../lacking.ts"
import type { RpcConnection } from "./RpcConnection.ts"
import { noteLinked } from "./waiting.ts"

const { level: LINK_LEVEL } = extensionCommands.LINK_DIAL
const { level: DEVICES_LEVEL } = extensionCommands.ALL_REDUCE_DEVICES

/** Why a server did not do as asked, as a clause about it. */
const refusals: Readonly<Record<number, string>> = {
  [LinkStatus.OFF]: "makes no links to other servers (serve --peers)",
  [LinkStatus.TLS]: "encrypts what it sends, and links are plain",
  [LinkStatus.NOT_ALLOWED]: "may not connect (serve --peers) to",
  [LinkStatus.UNREACHABLE]:
    "does not reach, may not connect (serve --peers) to, or is not let in by",
  [LinkStatus.TOO_MANY]: "has too many links to take one of",
}

/** The same where it took too long, by what was asked. */
const lateness = {
  LINK_EXPECT: "was not ready in time for",
  LINK_DIAL: "did not reach in time",
  LINK_AWAIT: "was not reached in time by",
} as const

/** Those about one server alone. */
const ABOUT_ONE: ReadonlySet<number> = new Set([LinkStatus.OFF, LinkStatus.TLS])

/**
 * Why servers cannot add up by themselves what their devices have parts of, whoever asks; undefined when they may be linked for it. Each device's
 * connection: of one server there may be several devices.
 */
export const unlinkable = (devices: ReadonlyArray<RpcConnection>): string | undefined => {
  const servers = [...new Set(devices)]
  const needed = servers.length < devices.length ? DEVICES_LEVEL : LINK_LEVEL
  const old = servers.find(({ level }) => level < needed)
  if (old !== undefined) return describeLacking(old)
  const names = new Set(servers.map(({ endpoint, serverName }) => serverName ?? endpoint))
  if (names.size < servers.length) return "one server is connected several times"
  if (servers.length > MAX_LINKED_SERVERS) return "there are too many servers"
  return undefined
}

export class ServerLinks {
  /** The servers that are linked, by their places. */
  private linked: ReadonlyArray<RpcConnection> = []
  private users = 0

  /**
   * Links servers, each with each, unless they are. Asks them, and waits.
   *
   * @returns why they are not; undefined when they are, until `release`
   */
  acquire(connections: ReadonlyArray<RpcConnection>): string | undefined {
    if (!areSame(this.linked, connections)) {
      if (this.users > 0) return "other servers are linked for another context"
      this.end()
      const reason = link(connections)
      if (reason !== undefined) {
        free(connections)
        return reason
      }
      this.linked = connections
      for (const connection of connections) connection.linked = connections
    }
    if (this.users === 0) noteLinked(connections.map(({ place }) => place))
    this.users++
    return undefined
  }

  /** What `acquire` gave is not needed any more; the links stay for the next one. */
  release(): void {
    this.users--
    if (this.users === 0) noteLinked([])
  }

  private end(): void {
    free(this.linked)
    for (const connection of this.linked) connection.linked = []
    this.linked = []
  }
}

const areSame = (a: ReadonlyArray<RpcConnection>, b: ReadonlyArray<RpcConnection>): boolean =>
  a.length === b.length && a.every((connection, place) => connection === b[place])

const free = (connections: ReadonlyArray<RpcConnection>): void => {
  for (const connection of connections) connection.postExtension("LINK_FREE", {})
}

const link = (connections: ReadonlyArray<RpcConnection>): string | undefined => {
  for (let second = 1; second < connections.length; second++) {
    for (let first = 0; first < second; first++) {
      const reason = linkPair(connections, first, second)
      if (reason !== undefined) return reason
    }
  }
  return undefined
}

/** One of the two connects to the other one. Which of them can, this process does not know. */
const linkPair = (
  connections: ReadonlyArray<RpcConnection>,
  first: number,
  second: number,
): string | undefined => {
  const reason = linkOneWay(connections, first, second)
  if (reason === undefined) return undefined
  const other = linkOneWay(connections, second, first)
  return other === undefined || other === reason ? other : `${reason}; ${other}`
}

const linkOneWay = (
  connections: ReadonlyArray<RpcConnection>,
  rank: number,
  peer: number,
): string | undefined => {
  const worldSize = connections.length
  const [dials, waits] = [connections[rank]!, connections[peer]!]
  const key = crypto.getRandomValues(new Uint8Array(LINK_KEY_BYTES))
  const expected = waits.callExtension("LINK_EXPECT", { rank: peer, worldSize, peer: rank, key })
  const refused = described("LINK_EXPECT", waits, expected, dials)
  if (refused !== undefined) return refused
  const { host, port } = waits.target
  const target = { rank, worldSize, peer, key, host, port }
  const dialled = described("LINK_DIAL", dials, dials.callExtension("LINK_DIAL", target), waits)
  if (dialled !== undefined) return dialled
  return described("LINK_AWAIT", waits, waits.callExtension("LINK_AWAIT", { peer: rank }), dials)
}

/** What an answer means; undefined where it is as wanted. */
const described = (
  what: keyof typeof lateness,
  asked: RpcConnection,
  answer: { readonly status: number } | undefined,
  other: RpcConnection,
): string | undefined => {
  if (answer === undefined) return `${asked.endpoint} is lost`
  const { status } = answer
  if (status === LinkStatus.DONE) return undefined
  const how =
    status === LinkStatus.LATE
      ? lateness[what]
      : (refusals[status] ?? `answered ${status}, asked for a link to`)
  return ABOUT_ONE.has(status)
    ? `${asked.endpoint} ${how}`
    : `${asked.endpoint} ${how} ${other.endpoint}`
}
