/**
 * Partial sums that the servers exchange and add up themselves, over links between them: a request each, and nothing is waited for. Where
 * they cannot be linked, this process adds up.
 */
import { AllReduceFlag } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { type ServerLinks, unlinkable } from "../connection/ServerLinks.ts"
import type { AllReduce, Group } from "./AllReduce.ts"
import { ClientSums } from "./ClientSums.ts"
import { putAllReduce } from "./requests.ts"

/** A sum of more bytes belongs to a prompt: the servers begin with it at once. A token's leave together. */
const EAGER_BYTES = 32 * 1024
const ELEMENT_BYTES = 4

export class ServerSums implements AllReduce {
  private readonly group: Group
  private readonly links: ServerLinks
  private readonly connections: ReadonlyArray<RpcConnection>
  /** Of every sum. */
  private readonly flags: number
  private state: "new" | "linked" | "closed" = "new"
  private byClient: ClientSums | undefined
  /** Why this process adds up. */
  private reason: string | undefined

  constructor(group: Group, links: ServerLinks) {
    this.group = group
    this.links = links
    this.connections = group.members.map(({ connection }) => connection)
    const isBf16 = group.isBf16 && this.connections.every(({ speaksBf16 }) => speaksBf16)
    this.flags = isBf16 ? AllReduceFlag.BF16 : 0
  }

  /** Has the servers linked, which takes round trips; why they are not, if so. */
  prepare(): string | undefined {
    if (this.state !== "new" || this.byClient !== undefined) return this.reason
    const { connections, links } = this
    this.reason = unlinkable(connections) ?? links.acquire(connections)
    if (this.reason === undefined) this.state = "linked"
    else this.byClient = new ClientSums(this.group)
    return this.reason
  }

  reduce(elementCount: number, counting: number): void {
    if (this.state === "new") this.prepare()
    if (this.byClient !== undefined) {
      this.byClient.reduce(elementCount, counting)
      return
    }
    const { exchange, members } = this.group
    for (let member = 0; member < members.length; member++) {
      const { connection } = members[member]!
      const counts = ((counting >> member) & 1) === 0 ? 0 : AllReduceFlag.COUNTS
      putAllReduce(connection, exchange.parts[member]!, this.flags | counts)
      connection.markSum()
    }
    if (elementCount * ELEMENT_BYTES > EAGER_BYTES) {
      for (const connection of this.connections) connection.flush()
    }
  }

  close(): void {
    if (this.state === "linked") this.links.release()
    this.state = "closed"
    this.byClient?.close()
  }
}
