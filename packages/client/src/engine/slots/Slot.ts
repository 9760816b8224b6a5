import type { ModelContext, ModelInfo } from "@ggml-rpc/native/bindings/llama"
import type { SlotState } from "../messages.ts"
import type { Task } from "./Task.ts"

/** A sequence of a context's cache, the tokens in it, and the text at work there. */
export class Slot {
  readonly id: number
  task: Task | undefined
  /** In the cache, from position 0 on. */
  readonly tokens: Array<number> = []
  /** Counts up over all slots: when it was last given away. */
  usedAt = 0
  /** Counts with it: when it last had a part in a batch. */
  computedAt = 0
  /** What the batch under way has of it: so many tokens from this index on. */
  batchIndex = 0
  batchCount = 0
  /** Guesses of what follows its text, which are the last tokens that the batch has of it. */
  readonly draft: Array<number> = []
  /** It is a sequence of this context's cache. */
  readonly context: ModelContext
  readonly sequence: number
  readonly #info: ModelInfo

  constructor(id: number, context: ModelContext, sequence: number, info: ModelInfo) {
    this.id = id
    this.context = context
    this.sequence = sequence
    this.#info = info
  }

  /** Tokens that are still to go through the context. */
  get pendingCount(): number {
    return this.task === undefined ? 0 : this.task.tokens.length - this.tokens.length
  }

  state(): SlotState {
    const isPrompt = this.tokens.length === 0 || this.pendingCount > 1
    const state = this.task === undefined ? "idle" : isPrompt ? "prompt" : "generating"
    return { slot: this.id, state, tokenCount: this.tokens.length }
  }

  /** Its text leaves it, and ends so. */
  end(end: (task: Task) => void): void {
    const { task } = this
    this.task = undefined
    if (task !== undefined) end(task)
  }

  /** Forgets everything. */
  clear(): void {
    this.context.removeFrom(0, this.sequence)
    this.tokens.length = 0
  }

  /** Forgets what is behind the first `count` tokens, or everything where that cannot be had. */
  keep(count: number): void {
    if (count >= this.tokens.length) return
    if (count > 0 && this.#canGoOnAt(count) && this.context.removeFrom(count, this.sequence)) {
      this.tokens.length = count
    } else this.clear()
  }

  /** Begins as another slot does. */
  copy(other: Slot, count: number): void {
    this.clear()
    this.context.copySequence(other.sequence, this.sequence, count)
    for (let index = 0; index < count; index++) this.tokens.push(other.tokens[index]!)
    if (!this.#canGoOnAt(count)) this.clear()
  }

  /** Whether other slots can begin as this does. */
  get canBeCopied(): boolean {
    return !(this.#info.isRecurrent || this.#info.isHybrid)
  }

  /** As `Place.shift`. */
  shift(keptCount: number): void {
    const discarded = Math.floor((this.tokens.length - keptCount) / 2)
    if (discarded <= 0 || !this.context.canShift) return
    if (!this.context.shift(this.sequence, keptCount, keptCount + discarded)) return
    this.tokens.splice(keptCount, discarded)
    this.task?.tokens.splice(keptCount, discarded)
  }

  /** A sliding window has passed what is before it: going back needs more than the cache has. */
  #canGoOnAt(count: number): boolean {
    const { slidingWindow } = this.#info
    if (slidingWindow === 0) return true
    return this.context.firstPosition(this.sequence) <= Math.max(0, count - slidingWindow)
  }
}
