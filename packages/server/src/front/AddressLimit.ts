/** So many at once, and so many a second later on. */
export interface Rate {
  readonly burst: number
  readonly perSecond: number
}

/** Something that is there in a limited amount, and comes back with time. */
interface Bucket {
  left: number
  /** When that was so. */
  at: number
}

/** Addresses that are remembered; the ones used longest ago go, and may do everything again. */
const MAX_ADDRESSES = 4096

/** However much was counted, it is worked off after so long. */
const MAX_DEBT_SECONDS = 2

/** How often clients of one address may do something; more have to wait. Times in milliseconds. */
export class AddressLimit {
  readonly #rate: Rate
  readonly #now: () => number
  /** Last in the map is used last. */
  readonly #buckets = new Map<string, Bucket>()

  constructor(rate: Rate, now: () => number = () => performance.now()) {
    this.#rate = rate
    this.#now = now
  }

  /** How long until the address may do it again; 0 when it may now. */
  waitMs(address: string): number {
    const bucket = this.#buckets.get(address)
    if (bucket === undefined) return 0
    this.#refill(bucket)
    return bucket.left >= 1 ? 0 : ((1 - bucket.left) * 1000) / this.#rate.perSecond
  }

  /** Counts so many, whether it might or not: what follows has to wait for them, too, but not for ever. */
  count(address: string, amount = 1): void {
    const bucket = this.#buckets.get(address) ?? { left: this.#rate.burst, at: this.#now() }
    this.#refill(bucket)
    const maxDebt = this.#rate.perSecond * MAX_DEBT_SECONDS
    bucket.left = Math.max(bucket.left - amount, -maxDebt)
    this.#buckets.delete(address)
    this.#buckets.set(address, bucket)
    if (this.#buckets.size > MAX_ADDRESSES) {
      this.#buckets.delete(this.#buckets.keys().next().value!)
    }
  }

  #refill(bucket: Bucket): void {
    const now = this.#now()
    const { burst, perSecond } = this.#rate
    bucket.left = Math.min(burst, bucket.left + ((now - bucket.at) / 1000) * perSecond)
    bucket.at = now
  }
}
