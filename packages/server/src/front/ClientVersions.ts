import type { ClosedEvent } from "../session/events.ts"
import type { Offer } from "../session/offer.ts"
import type { LogSink } from "./log.ts"
import { describeNews, type SavedOffers, VersionOffers } from "./VersionOffers.ts"

export interface ClientVersionsOptions {
  readonly log: LogSink
  /** What works for the clients of some addresses; `onOffers` gets it again when there is news. */
  readonly savedOffers?: SavedOffers
  readonly onOffers?: (offers: SavedOffers) => void
}

/** Learns from ended sessions which version their clients' addresses are offered, says it, and has it saved. */
export class ClientVersions {
  readonly #options: ClientVersionsOptions
  readonly #offers: VersionOffers
  /** What `onOffers` got last. */
  #saved: string

  constructor(options: ClientVersionsOptions) {
    this.#options = options
    this.#offers = new VersionOffers(options.savedOffers)
    this.#saved = JSON.stringify(this.#offers.save())
  }

  /** What the next connection from an address is offered. */
  next(address: string): Offer {
    return this.#offers.next(address)
  }

  /** Another client may need another version of the protocol. */
  ended(address: string, offer: Offer, { helloBytes, hasAsked, reason }: ClosedEvent): void {
    if (helloBytes === undefined || (!hasAsked && reason !== "left")) return
    const news = this.#offers.ended(address, offer, { helloCaps: helloBytes > 0, hasAsked })
    if (news !== undefined) {
      const level = news.kind === "works" ? "info" : "warning"
      this.#options.log({ level, message: describeNews(address, news) })
    }
    if (!hasAsked || this.#options.onOffers === undefined) return
    const saved = JSON.stringify(this.#offers.save())
    if (saved === this.#saved) return
    this.#saved = saved
    this.#options.onOffers(this.#offers.save())
  }
}
