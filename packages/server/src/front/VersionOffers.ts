import { formatVersion, offers, type ProtocolSpec, shortVersion } from "@ggml-rpc/protocol"
import type { Offer } from "../session/offer.ts"

/** What is known of the clients at one address that say HELLO in one of its two forms. */
interface Known {
  /** Place in `offers` of what they are offered. */
  index: number
  /** Places with which a client went on. */
  readonly works: Set<number>
  /** Places at which a client hung up since one went on. */
  readonly refused: Set<number>
  /** When the last connection ended with HELLO, if none that went on ended since; in milliseconds. */
  hungUpAt: number | undefined
  /** When the last connection ended. */
  endedAt: number
}

/** How a connection ended, as far as it tells of a version. */
export interface EndedConnection {
  /** Whether its HELLO had capabilities. */
  readonly helloCaps: boolean
  /** It went on after HELLO. */
  readonly hasAsked: boolean
}

/**
 * What works at an address, for a file: names of versions, with and without capabilities. Places in `offers` would mean others
 * to a server that speaks one more.
 */
export type SavedOffers = Readonly<Record<string, readonly [string, string]>>

/**
 * Upstream's clients end some connections of each run after HELLO, and open the next one within milliseconds. A client that
 * is told another version than its own ends altogether: the next one comes when somebody starts it again.
 */
const NEXT_CONNECTION_MS = 300

/** A client that hung up and comes again after this long is taken for another one. */
const RETRY_MS = 600_000

/** Addresses that are remembered; the ones used longest ago go. */
const MAX_ADDRESSES = 4096

type Form = "withCaps" | "withoutCaps"

const listOf = (form: Form): readonly ProtocolSpec[] => offers(form === "withCaps")

const nameOf = (form: Form, place: number): string => shortVersion(listOf(form)[place]!.version)

/** The first for a version that is not offered any more. */
const placeOf = (form: Form, name: string): number =>
  Math.max(
    0,
    listOf(form).findIndex(({ version }) => shortVersion(version) === name),
  )

/**
 * Which version to announce to whom. A HELLO tells little of the client's version, and a client hangs up when it is told
 * another than its own: then its address is offered another one, first what worked there before, else the next older. Clients
 * that take any version, as this project's, do not stand in the way: they take what the others at their address need.
 */
export class VersionOffers {
  readonly #byAddress = new Map<string, Readonly<Record<Form, Known>>>()
  readonly #now: () => number

  constructor(saved: SavedOffers = {}, now: () => number = Date.now) {
    this.#now = now
    for (const [address, [withCaps, withoutCaps]] of Object.entries(saved)) {
      this.#byAddress.set(address, {
        withCaps: knownToWork(placeOf("withCaps", withCaps)),
        withoutCaps: knownToWork(placeOf("withoutCaps", withoutCaps)),
      })
    }
  }

  /** What the next connection from an address is offered, and what there is to say of it. */
  next(address: string): { readonly offer: Offer; readonly news: readonly VersionNews[] } {
    const known = this.#byAddress.get(address)
    if (known === undefined) return { offer: { withCaps: 0, withoutCaps: 0 }, news: [] }
    const news: VersionNews[] = []
    for (const form of ["withCaps", "withoutCaps"] as const) {
      const found = this.#turn(known[form], form)
      if (found !== undefined) news.push(found)
    }
    return {
      offer: { withCaps: known.withCaps.index, withoutCaps: known.withoutCaps.index },
      news,
    }
  }

  /** Goes on to another version when the last client hung up and stayed away. */
  #turn(known: Known, form: Form): VersionNews | undefined {
    const now = this.#now()
    if (known.works.size === 0 && now - known.endedAt > RETRY_MS) {
      known.index = 0
      known.refused.clear()
      known.hungUpAt = undefined
    }
    if (known.hungUpAt === undefined || now - known.hungUpAt <= NEXT_CONNECTION_MS) return undefined
    known.hungUpAt = undefined
    const list = listOf(form)
    const refused = list[known.index]!
    known.refused.add(known.index)
    const left = [...known.works, ...list.keys()].find((place) => !known.refused.has(place))
    if (left === undefined) known.refused.clear()
    known.index = left ?? 0
    return left === undefined
      ? { kind: "nothing left", refused }
      : { kind: "next", refused, spec: list[left]! }
  }

  /**
   * Takes note of how a connection ended that was offered `offer`. Returns what to say of it, when a version was found that
   * works.
   */
  ended(address: string, offer: Offer, connection: EndedConnection): VersionNews | undefined {
    if ("pinned" in offer) return undefined
    const form = connection.helloCaps ? "withCaps" : "withoutCaps"
    const known = this.#of(address)[form]
    const offered = offer[form]
    known.endedAt = this.#now()
    if (!connection.hasAsked) {
      // One that was offered something else began before the last turn.
      if (offered === known.index) known.hungUpAt = known.endedAt
      return undefined
    }
    known.hungUpAt = undefined
    known.refused.clear()
    const isNews = !known.works.has(offered) && offered > 0
    known.works.add(offered)
    if (!known.works.has(known.index)) known.index = offered
    return isNews ? { kind: "works", spec: listOf(form)[offered]! } : undefined
  }

  #of(address: string): Readonly<Record<Form, Known>> {
    const known = this.#byAddress.get(address) ?? { withCaps: unknown(), withoutCaps: unknown() }
    // Last in the map is used last.
    this.#byAddress.delete(address)
    this.#byAddress.set(address, known)
    if (this.#byAddress.size > MAX_ADDRESSES) {
      this.#byAddress.delete(this.#byAddress.keys().next().value!)
    }
    return known
  }

  /** What is offered where another version than the newest was spoken; an updated client takes the place of the old one. */
  save(): SavedOffers {
    const saved: Record<string, readonly [string, string]> = {}
    for (const [address, { withCaps, withoutCaps }] of this.#byAddress) {
      const works = [...withCaps.works, ...withoutCaps.works]
      if (works.every((place) => place === 0)) continue
      const place = (known: Known): number => (known.works.has(known.index) ? known.index : 0)
      saved[address] = [
        nameOf("withCaps", place(withCaps)),
        nameOf("withoutCaps", place(withoutCaps)),
      ]
    }
    return saved
  }
}

export type VersionNews =
  | { readonly kind: "works"; readonly spec: ProtocolSpec }
  | { readonly kind: "next"; readonly refused: ProtocolSpec; readonly spec: ProtocolSpec }
  | { readonly kind: "nothing left"; readonly refused: ProtocolSpec }

/** A line of the log. */
export const describeNews = (address: string, news: VersionNews): string => {
  switch (news.kind) {
    case "works": {
      const name = shortVersion(news.spec.version)
      return `clients at ${address} speak protocol ${name}, and are offered it from now on; --protocol ${name} pins it`
    }
    case "next": {
      const name = shortVersion(news.spec.version)
      return `${address} hung up when it was offered protocol ${formatVersion(news.refused.version)}, as llama.cpp does when its own is another: it is offered ${name} now (--protocol ${name} offers nothing else)`
    }
    case "nothing left":
      return `${address} hung up at every protocol that this server speaks, ${formatVersion(news.refused.version)} at last: its llama.cpp may be newer than this server, or a fork`
  }
}

const unknown = (): Known => ({
  index: 0,
  works: new Set(),
  refused: new Set(),
  hungUpAt: undefined,
  endedAt: 0,
})

const knownToWork = (index: number): Known => ({
  ...unknown(),
  index,
  works: new Set(index > 0 ? [index] : []),
})

/**
 * The address of a client as it is remembered: of IPv6 the network of 64 bits, in which a host picks its addresses as it
 * likes.
 */
export const rememberedAddress = (address: string): string => {
  if (!address.includes(":")) return address
  const [head = "", tail] = address.replace(/[[\]]/g, "").split("::")
  const groups = head === "" ? [] : head.split(":")
  const last = tail === undefined || tail === "" ? [] : tail.split(":")
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - groups.length - last.length)
  const all = [...groups, ...Array.from({ length: zeros }, () => "0"), ...last]
  return `${all.slice(0, 4).join(":")}::/64`
}

/** What a file said; nothing when it says something else. */
export const parseSavedOffers = (text: string): SavedOffers => {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return {}
  }
  if (typeof json !== "object" || json === null) return {}
  const entries = Object.entries(json).filter(
    ([, names]) =>
      Array.isArray(names) && typeof names[0] === "string" && typeof names[1] === "string",
  )
  return Object.fromEntries(entries.map(([address, names]) => [address, [names[0], names[1]]]))
}
