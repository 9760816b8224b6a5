import type { Address } from "@ggml-rpc/native/bindings"

/** So many are taken before the lists are moved up. */
const COMPACT_COUNT = 256

/** The target of an answer that carries no tensor data. */
export const DISCARD: Address = 0

/** Answers that are on their way, the oldest first; no object an answer. */
export class AnswerQueue {
  private readonly commands: Array<number> = []
  private readonly targets: Array<Address> = []
  private readonly sizes: Array<number> = []
  private readonly requested: Array<number> = []
  private readonly lists = [this.commands, this.targets, this.sizes, this.requested]
  private first = 0
  /** How many of them are no reads. */
  smallCount = 0

  get hasReads(): boolean {
    return this.commands.length - this.first > this.smallCount
  }

  get firstCommand(): number {
    return this.commands[this.first]!
  }

  /** Where the oldest one's data goes; `DISCARD` when it is no read. */
  get firstTarget(): Address {
    return this.targets[this.first]!
  }

  get firstSizeBytes(): number {
    return this.sizes[this.first]!
  }

  /** What was requested, in bytes, when the oldest read was; there must be one. */
  get firstReadRequestedBytes(): number {
    let at = this.first
    while (this.targets[at] === DISCARD) at++
    return this.requested[at]!
  }

  /** `requestedBytes`: of all requests up to the one that is answered so. */
  push(command: number, target: Address, sizeBytes: number, requestedBytes: number): void {
    this.commands.push(command)
    this.targets.push(target)
    this.sizes.push(sizeBytes)
    this.requested.push(requestedBytes)
    if (target === DISCARD) this.smallCount++
  }

  shift(): void {
    if (this.firstTarget === DISCARD) this.smallCount--
    this.first++
    if (this.first === this.commands.length) this.clear()
    else if (this.first === COMPACT_COUNT) this.compact()
  }

  clear(): void {
    for (const list of this.lists) list.length = 0
    this.first = 0
    this.smallCount = 0
  }

  /** With several contexts there may always be one on its way. */
  private compact(): void {
    for (const list of this.lists) list.splice(0, this.first)
    this.first = 0
  }
}
