import type { Address } from "@ggml-rpc/native/bindings"

/** Of an answer that carries no tensor data. */
export const NO_TARGET: Address = 0

/** So many are taken before the lists are moved up. */
const COMPACT_ANSWERS = 256

/**
 * The answers that are on their way, oldest first: to which command, where to and of what size; no object an answer. One that
 * goes on to another server has that one's connection as its receiver, and a position in its outbox as its target.
 */
export class AnswerQueue<Receiver> {
  private readonly commands: Array<number> = []
  private readonly targets: Array<Address> = []
  private readonly sizes: Array<number> = []
  private readonly requested: Array<number> = []
  private readonly receivers: Array<Receiver | undefined> = []
  private readonly lists = [this.commands, this.targets, this.sizes, this.requested, this.receivers]
  private first = 0

  get firstCommand(): number {
    return this.commands[this.first]!
  }

  get firstTarget(): Address {
    return this.targets[this.first]!
  }

  get firstSizeBytes(): number {
    return this.sizes[this.first]!
  }

  get firstReceiver(): Receiver | undefined {
    return this.receivers[this.first]
  }

  /** Bytes of all requests up to this answer's. */
  get firstRequestedBytes(): number {
    return this.requested[this.first]!
  }

  push(
    command: number,
    target: Address,
    sizeBytes: number,
    requestedBytes: number,
    receiver?: Receiver,
  ): void {
    this.commands.push(command)
    this.targets.push(target)
    this.sizes.push(sizeBytes)
    this.requested.push(requestedBytes)
    this.receivers.push(receiver)
  }

  shift(): void {
    this.first++
    if (this.first === this.targets.length) this.clear()
    else if (this.first === COMPACT_ANSWERS) this.compact()
  }

  clear(): void {
    for (const list of this.lists) list.length = 0
    this.first = 0
  }

  /** Who waits for any of them. */
  waitingReceivers(): ReadonlyArray<Receiver> {
    return [...new Set(this.receivers.slice(this.first).filter((it) => it !== undefined))]
  }

  /** With several contexts there may always be a read on its way. */
  private compact(): void {
    for (const list of this.lists) list.splice(0, this.first)
    this.first = 0
  }
}
