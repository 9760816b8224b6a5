import { formatVersion, offers, type ProtocolSpec, shortVersion } from "@ggml-rpc/protocol"
import type { Offer } from "../session/offer.ts"

/** What is known of the clients at one address that say HELLO in one of its two forms; times in milliseconds. */
interface Known {
  /** Place in `offers` of what they are offered. */
  index: number
  /** Places with which a client went on, and when the last one ended. */
  readonly works: Map<number, number>
  /** Places at which a client hung up since one went on. */
  readonly refused: Set<number>
  /** Starts in a row that ended with HELLO although such a client had gone on shortly before. */
  doubts: number
  hungUpAt: number
  endedAt: number
  /** They hung up at all there is, and it was said. */
  isExhausted: boolean
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
 * Upstream's clients end some connections of a run after HELLO, while they look for devices: shortly after others that went
 * on. A client that is told another version than its own ends altogether, with its first connection.
 */
const RUN_MS = 60_000

/** Where two kinds of clients take turns: so many such ends, so far apart, are no run's. */
const DOUBTS = 2
const BETWEEN_STARTS_MS = 1000

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

  /** What the next connection from an address is offered. */
  next(address: string): Offer {
    const known = this.#byAddress.get(address)
    if (known === undefined) return { withCaps: 0, withoutCaps: 0 }
    return { withCaps: this.#place(known.withCaps), withoutCaps: this.#place(known.withoutCaps) }
  }

  #place(known: Known): number {
    if (known.works.size === 0 && this.#now() - known.endedAt > RETRY_MS) {
      known.index = 0
      known.refused.clear()
    }
    return known.index
  }

  /**
   * Takes note of how a connection ended that was offered `offer`. Returns what to say of it: a version was found that
   * works, or the next one to try, or a pinned one is too old; undefined when there is nothing new.
   */
  ended(address: string, offer: Offer, connection: EndedConnection): VersionNews | undefined {
    if ("pinned" in offer) {
      // Whoever goes on with an older version than its HELLO has is a client of this project.
      const isTooOld = connection.helloCaps && !offer.pinned.features.helloCaps
      return isTooOld && !connection.hasAsked ? { kind: "too old", spec: offer.pinned } : undefined
    }
    const form = connection.helloCaps ? "withCaps" : "withoutCaps"
    const known = this.#of(address)[form]
    const offered = offer[form]
    const now = this.#now()
    known.endedAt = now
    if (connection.hasAsked) return this.#wentOn(known, offered, form)
    // One that was offered something else began before the last turn.
    if (offered !== known.index) return undefined
    const wentOnAt = known.works.get(offered)
    if (wentOnAt !== undefined && now - wentOnAt < RUN_MS) {
      if (now - known.hungUpAt > BETWEEN_STARTS_MS) known.doubts++
      known.hungUpAt = now
      if (known.doubts < DOUBTS) return undefined
    }
    return this.#refuse(known, form)
  }

  #wentOn(known: Known, offered: number, form: Form): VersionNews | undefined {
    const isNews = !known.works.has(offered) && offered > 0
    known.works.set(offered, this.#now())
    known.refused.clear()
    known.isExhausted = false
    if (!known.works.has(known.index)) known.index = offered
    // A client that takes any version says nothing about those that do not take this one.
    return isNews ? { kind: "works", spec: listOf(form)[offered]! } : undefined
  }

  /** Goes on to another version: what worked before, else the next that was not refused. */
  #refuse(known: Known, form: Form): VersionNews | undefined {
    const list = listOf(form)
    const refused = list[known.index]!
    known.doubts = 0
    known.refused.add(known.index)
    const left = [...known.works.keys(), ...list.keys()].find((place) => !known.refused.has(place))
    known.index = left ?? 0
    if (left !== undefined) {
      return known.isExhausted ? undefined : { kind: "next", refused, spec: list[left]! }
    }
    known.refused.clear()
    if (known.isExhausted) return undefined
    known.isExhausted = true
    return { kind: "nothing left", refused }
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
      const works = [...withCaps.works.keys(), ...withoutCaps.works.keys()]
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
  | { readonly kind: "too old"; readonly spec: ProtocolSpec }

/** A line of the log. */
export const describeNews = (address: string, news: VersionNews): string => {
  switch (news.kind) {
    case "works": {
      const name = shortVersion(news.spec.version)
      return `clients at ${address} speak protocol ${name}, and are offered it from now on; --protocol ${name} pins it`
    }
    case "next": {
      const name = shortVersion(news.spec.version)
      return `${address} hung up when it was offered protocol ${formatVersion(news.refused.version)}, as llama.cpp does when its own is another: start it again, and it is offered ${name} (--protocol ${name} offers nothing else)`
    }
    case "nothing left":
      return `${address} hung up at every protocol that this server speaks, ${formatVersion(news.refused.version)} at last: its llama.cpp may be newer than this server, or a fork`
    case "too old":
      return `${address} hung up when it was told protocol ${formatVersion(news.spec.version)}, as llama.cpp does whose own is 4.0 or later: this port speaks nothing else (--protocol)`
  }
}

const unknown = (): Known => ({
  index: 0,
  works: new Map(),
  refused: new Set(),
  doubts: 0,
  hungUpAt: 0,
  endedAt: 0,
  isExhausted: false,
})

const knownToWork = (index: number): Known => ({
  ...unknown(),
  index,
  works: new Map(index > 0 ? [[index, 0]] : []),
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
