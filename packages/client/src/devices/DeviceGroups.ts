import { ServerLinks, unlinkable } from "../connection/ServerLinks.ts"
import type { AllReduce, AllReduceMaker } from "./AllReduce.ts"
import { ClientSums } from "./ClientSums.ts"
import type { DeviceState } from "./device.ts"
import type { Exchange } from "./Exchange.ts"
import { ServerSums } from "./ServerSums.ts"

/** Who adds up partial sums; `ggml` and `client` are what others are compared with. */
export type SumsBy = "best" | "client" | "ggml"

/** This process does. */
const BY_CLIENT: ReadonlyArray<AllReduceMaker> = [(group) => new ClientSums(group)]

/** ggml does, by copies and graphs of its own. */
const BY_GGML: ReadonlyArray<AllReduceMaker> = []

/** The groups of devices over which contexts split each tensor, by the numbers that the shim's callbacks give. */
export class DeviceGroups {
  private readonly links = new ServerLinks()
  private readonly best: ReadonlyArray<AllReduceMaker> = [
    (group) => new ServerSums(group, this.links),
  ]
  private makers = this.best
  private isBf16 = false
  private readonly states: ReadonlyArray<DeviceState>
  private readonly exchange: Exchange
  private readonly open = new Map<number, AllReduce>()
  private count = 0

  constructor(states: ReadonlyArray<DeviceState>, exchange: Exchange) {
    this.states = states
    this.exchange = exchange
  }

  /** Whether partial sums travel as bf16 in groups that are opened from now on. */
  carryBf16(isBf16: boolean): void {
    this.isBf16 = isBf16
  }

  /** Who adds up in groups that are opened from now on. */
  addUpBy(who: SumsBy): void {
    this.makers = who === "best" ? this.best : who === "client" ? BY_CLIENT : BY_GGML
  }

  /** The number of a new group of the exchange block's members; -1 where ggml has to add up by itself. */
  add(memberCount: number): number {
    const { exchange, isBf16, states } = this
    const members = exchange.members(memberCount).map((device) => states[device]!)
    for (const make of this.makers) {
      const made = make({ members, exchange, isBf16 })
      if (made === undefined) continue
      this.open.set(this.count, made)
      return this.count++
    }
    return -1
  }

  /** Why sums of open groups take a longer way than they could, each reason once; see `AllReduce.prepare`. */
  prepare(): ReadonlyArray<string> {
    return [...new Set([...this.open.values()].flatMap((each) => each.prepare?.() ?? []))]
  }

  /** Whether the servers of devices can add up by themselves, by linking them; `unlinked`: why they cannot. Asks them, and waits. */
  tryLinks(devices: ReadonlyArray<DeviceState>): { readonly unlinked?: string } {
    const connections = devices.map(({ connection }) => connection)
    const servers = [...new Set(connections)]
    const unlinked =
      unlinkable(connections) ?? (servers.length > 1 ? this.links.acquire(servers) : undefined)
    if (unlinked !== undefined) return { unlinked }
    if (servers.length > 1) this.links.release()
    return {}
  }

  delete(group: number): void {
    this.open.get(group)?.close()
    this.open.delete(group)
  }

  /** See `AllReduce.reduce`. */
  allReduce(group: number, elementCount: number, counting: number): void {
    this.open.get(group)!.reduce(elementCount, counting)
  }
}
