import type { Address } from "@ggml-rpc/native/bindings"
import { RESPONSE_HEADER_SIZE_BYTES } from "@ggml-rpc/protocol"

/** Of an answer that carries no tensor data. */
export const NO_TARGET: Address = 0

/** So many are taken before the lists are moved up. */
const COMPACT_ANSWERS = 256

/** The answers that are on their way, oldest first: to which command, where to and of what size; no object an answer. */
export class AnswerQueue {
  private readonly commands: Array<number> = []
  private readonly targets: Array<Address> = []
  private readonly sizes: Array<number> = []
  private readonly requested: Array<number> = []
  private readonly lists = [this.commands, this.targets, this.sizes, this.requested]
  private first = 0
  /** Of all that are on their way, with their headers. */
  sizeBytes = 0

  get firstCommand(): number {
    return this.commands[this.first]!
  }

  get firstTarget(): Address {
    return this.targets[this.first]!
  }

  get firstSizeBytes(): number {
    return this.sizes[this.first]!
  }

  /** Bytes of all requests up to this answer's. */
  get firstRequestedBytes(): number {
    return this.requested[this.first]!
  }

  push(command: number, target: Address, sizeBytes: number, requestedBytes: number): void {
    this.commands.push(command)
    this.targets.push(target)
    this.sizes.push(sizeBytes)
    this.requested.push(requestedBytes)
    this.sizeBytes += RESPONSE_HEADER_SIZE_BYTES + sizeBytes
  }

  shift(): void {
    this.sizeBytes -= RESPONSE_HEADER_SIZE_BYTES + this.firstSizeBytes
    this.first++
    if (this.first === this.targets.length) this.clear()
    else if (this.first === COMPACT_ANSWERS) this.compact()
  }

  clear(): void {
    for (const list of this.lists) list.length = 0
    this.first = 0
    this.sizeBytes = 0
  }

  /** With several contexts there may always be a read on its way. */
  private compact(): void {
    for (const list of this.lists) list.splice(0, this.first)
    this.first = 0
  }
}
