import { formatVersion, offers, type ProtocolSpec, shortVersion } from "@ggml-rpc/protocol"
import type { Offer } from "../session/offer.ts"

/** What is known of the clients at one address that say HELLO in one of its two forms. */
interface Known {
  /** Place in `offers` of what they are offered. */
  index: number
  /** They went on with it once. */
  works: boolean
  /** Starts in a row that ended with HELLO, of clients at an address where something works. */
  hangUps: number
  /** They hung up at all there is. */
  exhausted: boolean
  /** When the last one ended, in milliseconds. */
  endedAt: number
}

/** How a connection ended, as far as it tells of a version. */
export interface EndedConnection {
  /** Whether its HELLO had capabilities. */
  readonly helloCaps: boolean
  /** It went on after HELLO. */
  readonly hasAsked: boolean
}

/** What works at an address, for a file: places in `offers`, with and without capabilities. */
export type SavedOffers = Readonly<Record<string, readonly [number, number]>>

/**
 * A client that hung up comes again when somebody starts it again, which may take a while: its libraries end the program.
 * Later than this, it is taken for another one.
 */
const RETRY_MS = 120_000

/**
 * Upstream's clients end some connections of each run after HELLO, within milliseconds of others that go on. So many in a
 * row, each so long after the one before, are somebody whose program was updated and who starts it again and again.
 */
const HANG_UPS_OF_A_CHANGED_CLIENT = 2
const BETWEEN_STARTS_MS = 1000

/** Addresses that are remembered; the ones used longest ago go. */
const MAX_ADDRESSES = 4096

/**
 * Which version to announce to whom. A HELLO tells little of the client's version, and a client hangs up when it is told
 * another than its own: then its address is offered the next older one, and what worked is what it is offered from then on.
 */
export class VersionOffers {
  readonly #byAddress = new Map<string, { readonly withCaps: Known; readonly withoutCaps: Known }>()
  readonly #now: () => number

  constructor(saved: SavedOffers = {}, now: () => number = Date.now) {
    this.#now = now
    for (const [address, [withCaps, withoutCaps]] of Object.entries(saved)) {
      this.#byAddress.set(address, {
        withCaps: { ...unknown(), index: withCaps, works: withCaps > 0 },
        withoutCaps: { ...unknown(), index: withoutCaps, works: withoutCaps > 0 },
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
    if (!known.works && this.#now() - known.endedAt > RETRY_MS) known.index = 0
    return known.index
  }

  /**
   * Takes note of how a connection ended that was offered `offer`. Returns what to say of it: a version was found that
   * works, or the next one to try; undefined when there is nothing new.
   */
  ended(address: string, offer: Offer, connection: EndedConnection): VersionNews | undefined {
    if ("pinned" in offer) return undefined
    const known = this.#of(address)[connection.helloCaps ? "withCaps" : "withoutCaps"]
    const offered = connection.helloCaps ? offer.withCaps : offer.withoutCaps
    const previousEnd = known.endedAt
    known.endedAt = this.#now()
    const list = offers(connection.helloCaps)
    if (connection.hasAsked) {
      const isNews = !known.works && offered > 0
      known.index = offered
      known.works = true
      known.exhausted = false
      known.hangUps = 0
      return isNews ? { kind: "works", spec: list[offered]! } : undefined
    }
    if (known.works) {
      if (this.#now() - previousEnd > BETWEEN_STARTS_MS) known.hangUps++
      if (known.hangUps < HANG_UPS_OF_A_CHANGED_CLIENT) return undefined
    }
    // Connections that began together were offered the same: they are one refusal.
    if (offered !== known.index) return undefined
    known.works = false
    known.index = (offered + 1) % list.length
    const refused = list[offered]!
    // All were offered before: nothing new is to be said of somebody who only says HELLO.
    if (known.exhausted) return undefined
    known.exhausted = known.index === 0
    return known.index === 0
      ? { kind: "nothing left", refused }
      : { kind: "next", refused, spec: list[known.index]! }
  }

  #of(address: string): { readonly withCaps: Known; readonly withoutCaps: Known } {
    const known = this.#byAddress.get(address) ?? { withCaps: unknown(), withoutCaps: unknown() }
    // Last in the map is used last.
    this.#byAddress.delete(address)
    this.#byAddress.set(address, known)
    if (this.#byAddress.size > MAX_ADDRESSES) {
      this.#byAddress.delete(this.#byAddress.keys().next().value!)
    }
    return known
  }

  /** What works where, of all that are not served by the newest version. */
  save(): SavedOffers {
    const saved: Record<string, readonly [number, number]> = {}
    for (const [address, { withCaps, withoutCaps }] of this.#byAddress) {
      const places = [withCaps, withoutCaps].map(({ works, index }) => (works ? index : 0))
      if (places.some((place) => place > 0)) saved[address] = [places[0]!, places[1]!]
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
    case "works":
      return `clients at ${address} speak protocol ${nameOf(news.spec)}, and are offered it from now on; --protocol ${nameOf(news.spec)} pins it`
    case "next":
      return `${address} hung up when it was offered protocol ${formatVersion(news.refused.version)}, as llama.cpp does when its own is another: start it again within two minutes, and it is offered ${nameOf(news.spec)} (--protocol ${nameOf(news.spec)} offers nothing else)`
    case "nothing left":
      return `${address} hung up at every protocol that this server speaks, ${formatVersion(news.refused.version)} at last: it may be newer than this server (llama.cpp v1.0 speaks 9) or a fork`
  }
}

const nameOf = ({ version }: ProtocolSpec): string => shortVersion(version)

const unknown = (): Known => ({ index: 0, works: false, hangUps: 0, exhausted: false, endedAt: 0 })

/** What a file said; nothing when it says something else. */
export const parseSavedOffers = (text: string): SavedOffers => {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return {}
  }
  if (typeof json !== "object" || json === null) return {}
  const isPlace = (value: unknown, count: number): boolean =>
    Number.isInteger(value) && (value as number) >= 0 && (value as number) < count
  const entries = Object.entries(json).filter(
    ([, places]) =>
      Array.isArray(places) &&
      isPlace(places[0], offers(true).length) &&
      isPlace(places[1], offers(false).length),
  )
  return Object.fromEntries(entries.map(([address, places]) => [address, [places[0], places[1]]]))
}
