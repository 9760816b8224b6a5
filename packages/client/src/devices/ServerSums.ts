/**
 * Partial sums that the servers add up themselves, those of their own devices and, over links between them, the others': a request each, and
 * nothing is waited for. Where they cannot be linked, this process adds up.
 */
import { AllReduceDevicesHead, AllReduceFlag, MAX_PARTS } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { type ServerLinks, unlinkable } from "../connection/ServerLinks.ts"
import type { AllReduce, Group } from "./AllReduce.ts"
import { ClientSums } from "./ClientSums.ts"
import { putAllReduce, putAllReduceDevices } from "./requests.ts"

/** A sum of more bytes belongs to a prompt: the servers begin with it at once. A token's leave together. */
const EAGER_BYTES = 32 * 1024
const ELEMENT_BYTES = 4

export class ServerSums implements AllReduce {
  private readonly group: Group
  private readonly links: ServerLinks
  private readonly servers: ReadonlyArray<RpcConnection>
  /** By server: its members. */
  private readonly members: ReadonlyArray<ReadonlyArray<number>>
  /** Of every sum. */
  private readonly flags: number
  /** Where a server has several members: an encoded `AllReduceDevicesHead`, in which `counting` is of the last sum. */
  private readonly head: Uint8Array | undefined
  private readonly headView: DataView = new DataView(new ArrayBuffer(0))
  private state: "new" | "ready" | "closed" = "new"
  private byClient: ClientSums | undefined
  /** Why this process adds up. */
  private reason: string | undefined

  constructor(group: Group, links: ServerLinks) {
    this.group = group
    this.links = links
    const connections = group.members.map(({ connection }) => connection)
    this.servers = [...new Set(connections)]
    this.members = this.servers.map((server) =>
      connections.flatMap((connection, member) => (connection === server ? member : [])),
    )
    const isBf16 = group.isBf16 && this.servers.every(({ speaksBf16 }) => speaksBf16)
    this.flags = isBf16 ? AllReduceFlag.BF16 : 0
    if (this.servers.length === connections.length) return
    const places = new Uint8Array(MAX_PARTS)
    places.set(connections.map((connection) => this.servers.indexOf(connection)))
    this.head = new Uint8Array(AllReduceDevicesHead.size)
    this.headView = new DataView(this.head.buffer)
    const [serverCount, partCount] = [this.servers.length, connections.length]
    const fields = { flags: this.flags, serverCount, partCount, counting: 0, places }
    AllReduceDevicesHead.encode(fields, this.headView, 0)
  }

  /** One server alone needs no links. */
  private get isLinked(): boolean {
    return this.servers.length > 1
  }

  /** Has the servers linked, which takes round trips; why they are not, if so. */
  prepare(): string | undefined {
    if (this.state !== "new" || this.byClient !== undefined) return this.reason
    const { group, links, servers } = this
    this.reason =
      unlinkable(group.members.map(({ connection }) => connection)) ??
      (this.isLinked ? links.acquire(servers) : undefined)
    if (this.reason === undefined) this.state = "ready"
    else this.byClient = new ClientSums(group)
    return this.reason
  }

  reduce(elementCount: number, counting: number): void {
    if (this.state === "new") this.prepare()
    if (this.byClient !== undefined) {
      this.byClient.reduce(elementCount, counting)
      return
    }
    const { servers } = this
    for (let server = 0; server < servers.length; server++) {
      this.put(server, counting)
      if (this.isLinked) servers[server]!.markSum()
    }
    if (elementCount * ELEMENT_BYTES > EAGER_BYTES) {
      for (const server of servers) server.flush()
    }
  }

  private put(server: number, counting: number): void {
    const { flags, head, members, servers } = this
    const { parts } = this.group.exchange
    if (head !== undefined) {
      this.headView.setUint32(AllReduceDevicesHead.offsets.counting, counting, true)
      putAllReduceDevices(servers[server]!, head, parts, members[server]!)
      return
    }
    const counts = ((counting >> server) & 1) === 0 ? 0 : AllReduceFlag.COUNTS
    putAllReduce(servers[server]!, parts[server]!, flags | counts)
  }

  close(): void {
    if (this.state === "ready" && this.isLinked) this.links.release()
    this.state = "closed"
    this.byClient?.close()
  }
}
