import type { Address } from "@ggml-rpc/native/bindings"

/** So many are taken before the lists are moved up. */
const COMPACT_ANSWERS = 256

/** The target of an answer that carries no tensor data. */
export const DISCARD: Address = 0

/** The answers that are on their way, oldest first, by command, destination and size; no object an answer. */
export class AnswerQueue {
  private readonly commands: Array<number> = []
  private readonly targets: Array<Address> = []
  private readonly sizes: Array<number> = []
  private readonly requested: Array<number> = []
  private first = 0
  /** How many of them are reads: they carry tensor data. */
  readCount = 0

  get count(): number {
    return this.targets.length - this.first
  }

  get firstCommand(): number {
    return this.commands[this.first]!
  }

  get firstTarget(): Address {
    return this.targets[this.first]!
  }

  get firstSizeBytes(): number {
    return this.sizes[this.first]!
  }

  /** Bytes of all requests up to this one's. */
  get firstRequestedBytes(): number {
    return this.requested[this.first]!
  }

  push(command: number, target: Address, sizeBytes: number, requestedBytes: number): void {
    if (target !== DISCARD) this.readCount++
    this.commands.push(command)
    this.targets.push(target)
    this.sizes.push(sizeBytes)
    this.requested.push(requestedBytes)
  }

  shift(): void {
    if (this.firstTarget !== DISCARD) this.readCount--
    this.first++
    if (this.first === this.targets.length) this.clear()
    else if (this.first === COMPACT_ANSWERS) this.compact()
  }

  clear(): void {
    for (const list of [this.commands, this.targets, this.sizes, this.requested]) list.length = 0
    this.first = this.readCount = 0
  }

  /** With several contexts there may always be an answer on its way. */
  private compact(): void {
    for (const list of [this.commands, this.targets, this.sizes, this.requested]) {
      list.splice(0, this.first)
    }
    this.first = 0
  }
}
