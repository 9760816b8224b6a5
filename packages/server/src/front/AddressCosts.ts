import { AddressLimit, type Rate } from "./AddressLimit.ts"

export interface AddressRates {
  /** Session processes that are started for it. */
  readonly starts: Rate
  /** Its sessions. */
  readonly sessions: Rate
}

/** As what a session counts that ends by what its client sent, which sends it again as a rule: so many, and so many starts. */
const TROUBLE_SESSIONS = 10
const TROUBLE_STARTS = 4

/** What the clients of each address cost, and how long the next ones have to wait for it. */
export class AddressCosts {
  readonly #starts: AddressLimit | undefined
  readonly #sessions: AddressLimit | undefined

  /** Without `rates` nobody has to wait. */
  constructor(rates: AddressRates | undefined) {
    this.#starts = rates && new AddressLimit(rates.starts)
    this.#sessions = rates && new AddressLimit(rates.sessions)
  }

  /** Milliseconds until a client of the address may be served; 0 now. */
  waitToServe(address: string): number {
    return this.#sessions?.waitMs(address) ?? 0
  }

  /** Milliseconds until a process may be started for it. */
  waitToStart(address: string): number {
    return this.#starts?.waitMs(address) ?? 0
  }

  countSession(address: string): void {
    this.#sessions?.count(address)
  }

  countStart(address: string): void {
    this.#starts?.count(address)
  }

  /** A session of it ended by what its client sent, and took the process along if that `isSpent`. */
  countTrouble(address: string, isSpent: boolean): void {
    this.#sessions?.count(address, TROUBLE_SESSIONS)
    if (isSpent) this.#starts?.count(address, TROUBLE_STARTS)
  }
}
