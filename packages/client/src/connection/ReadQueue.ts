import type { Address } from "@ggml-rpc/native/bindings"

/** So many are taken before the lists are moved up. */
const COMPACT_READS = 256

/** Destinations and sizes of the answers that are on their way, oldest first; no object a read. */
export class ReadQueue {
  private readonly targets: Array<Address> = []
  private readonly sizes: Array<number> = []
  private readonly requested: Array<number> = []
  private first = 0

  get firstTarget(): Address {
    return this.targets[this.first]!
  }

  get firstSizeBytes(): number {
    return this.sizes[this.first]!
  }

  /** Bytes of all requests up to this read's. */
  get firstRequestedBytes(): number {
    return this.requested[this.first]!
  }

  push(target: Address, sizeBytes: number, requestedBytes: number): void {
    this.targets.push(target)
    this.sizes.push(sizeBytes)
    this.requested.push(requestedBytes)
  }

  shift(): void {
    this.first++
    if (this.first === this.targets.length) this.clear()
    else if (this.first === COMPACT_READS) this.compact()
  }

  clear(): void {
    this.targets.length = this.sizes.length = this.requested.length = this.first = 0
  }

  /** With several contexts there may always be a read on its way. */
  private compact(): void {
    for (const list of [this.targets, this.sizes, this.requested]) list.splice(0, this.first)
    this.first = 0
  }
}
