/**
 * Slots that are sequences of one context: every batch has the next token of each text that is being generated, and as much of
 * new prompts as there is room for.
 *
 * A batch is started and finished apart: between the two the servers compute it, and what other groups have started.
 */
import { Batch, decodeStatusText, type ModelContext } from "@ggml-rpc/native/bindings/llama"
import { allTokensOut } from "../../allTokensOut.ts"
import { ModelError } from "../../errors.ts"
import { commonLength } from "./commonLength.ts"
import type { Speculation } from "./drafting/Speculation.ts"
import type { Slot } from "./Slot.ts"
import type { SlotsHost } from "./Slots.ts"
import type { Task } from "./Task.ts"

/**
 * Architectures whose graphs read behind their state where a batch has tokens of several sequences (llama.cpp v0.5.0,
 * src/models/plamo2.cpp), which ends the process. Their texts take turns, a batch each.
 */
const oneTextABatch: ReadonlySet<string> = new Set(["plamo2"])

/** The part of a prompt that a slot's cache must have for the slot to be preferred to one that was not used for longer. */
const LEAST_SIMILARITY = 0.1

export interface GroupOptions {
  readonly context: ModelContext
  readonly slots: ReadonlyArray<Slot>
  readonly architecture: string
  /** Of the model's layers with one; 0: none. */
  readonly slidingWindow: number
  readonly path: string
  readonly host: SlotsHost
  readonly speculation: Speculation
  /** Tokens of a batch while somebody waits for the next one. */
  readonly promptStepSize: number
  /** Counts up over all groups. */
  readonly count: () => number
  /** A text lost its slot: it is the next to get one. */
  readonly requeue: (task: Task) => void
}

export class Group {
  readonly slots: ReadonlyArray<Slot>
  readonly #options: GroupOptions
  readonly #context: ModelContext
  readonly #host: SlotsHost
  readonly #speculation: Speculation
  readonly #batch: Batch
  readonly #takesTurns: boolean
  readonly #putsAllOut: boolean
  /** Whose batch is under way. */
  #inBatch: ReadonlyArray<Slot> = []

  constructor(options: GroupOptions) {
    const { context, slots, architecture, host, speculation } = options
    this.slots = slots
    this.#options = options
    this.#context = context
    this.#host = host
    this.#speculation = speculation
    this.#takesTurns = oneTextABatch.has(architecture)
    this.#putsAllOut = allTokensOut.has(architecture)
    this.#batch = new Batch(Math.min(context.batchSize, context.contextSize))
  }

  /** A batch was started and is not finished. */
  get isUnderWay(): boolean {
    return this.#inBatch.length > 0
  }

  get busyCount(): number {
    let count = 0
    for (const { task } of this.slots) if (task !== undefined) count++
    return count
  }

  get hasIdleSlot(): boolean {
    return this.slots.some(({ task }) => task === undefined)
  }

  /** Somebody waits for the next token. */
  get isGenerating(): boolean {
    return this.slots.some((slot) => slot.pendingCount === 1)
  }

  /** When the idle slot that was not used for longest was given away. */
  get idleSince(): number {
    return this.#least(({ task }) => task === undefined)?.usedAt ?? Infinity
  }

  /** Tokens that a text begins with and that are in the cache, for an idle slot to begin with. */
  reusableCount({ reusesCache, tokens }: Task): number {
    if (!reusesCache) return 0
    let most = 0
    for (const slot of this.slots) {
      if (slot.task !== undefined && !slot.canBeCopied) continue
      most = Math.max(most, commonLength(slot.tokens, tokens))
    }
    return most
  }

  /** Texts at work keep their cells, and whose tokens do not fit beside them waits. */
  hasRoomFor(task: Task): boolean {
    let taken = 0
    for (const slot of this.slots) taken += slot.task?.tokens.length ?? 0
    return taken === 0 || taken + task.tokens.length < this.#context.contextSize
  }

  /** An idle slot whose cache begins as the task does, else the one that was not used for longest. */
  slotFor(task: Task): Slot | undefined {
    let best: Slot | undefined
    let bestLength = task.reusesCache ? LEAST_SIMILARITY * task.tokens.length : Infinity
    let oldest: Slot | undefined
    for (const slot of this.slots) {
      if (slot.task !== undefined) continue
      if (oldest === undefined || slot.usedAt < oldest.usedAt) oldest = slot
      const length = commonLength(slot.tokens, task.tokens)
      if (length > bestLength) {
        best = slot
        bestLength = length
      }
    }
    return best ?? oldest
  }

  begin(slot: Slot, task: Task): void {
    slot.task = task
    slot.usedAt = this.#options.count()
    this.#context.wantCandidates(slot.sequence, this.#putsAllOut ? 0 : task.candidateCount)
    try {
      if (task.reusesCache) this.#reuse(slot, task)
      else slot.clear()
      const hasEnded = task.begin({
        slot: slot.id,
        sequence: slot.sequence,
        cachedCount: slot.tokens.length,
        shift: (keptCount) => slot.shift(keptCount),
      })
      if (hasEnded) slot.task = undefined
    } catch (error) {
      slot.end(() => task.fail(error))
    }
  }

  /** Keeps of the slot's cache, or takes over from another, what the task begins with. Its last token is always computed. */
  #reuse(slot: Slot, { tokens }: Task): void {
    const lengthIn = (other: Slot): number =>
      Math.min(commonLength(other.tokens, tokens), tokens.length - 1)
    let source = slot
    let length = lengthIn(slot)
    for (const other of this.slots) {
      if (!other.canBeCopied || lengthIn(other) <= length) continue
      source = other
      length = lengthIn(other)
    }
    if (source === slot) slot.keep(length)
    else slot.copy(source, length)
  }

  /**
   * Lets the servers compute a batch, and does not wait for them. `mayBeLong`: nobody of other groups waits for the next token. Does
   * not throw: what goes wrong ends the tasks that it is about.
   *
   * @returns whether there is a batch to finish
   */
  start(mayBeLong: boolean): boolean {
    const busy = this.slots.filter(({ task }) => task !== undefined)
    if (busy.length === 0) return false
    try {
      this.#host.failIfLost()
      this.#fill(busy, mayBeLong)
      if (this.#batch.count > 0 && this.#decode(busy)) {
        this.#inBatch = busy.filter(({ batchCount }) => batchCount > 0)
      }
    } catch (error) {
      this.#fail(busy, error)
    }
    return this.isUnderWay
  }

  /** Waits for the batch that was started, and gives each text what came out of it. Does not throw either. */
  finish(): void {
    const inBatch = this.#inBatch
    this.#inBatch = []
    try {
      this.#host.failIfLost()
      this.#deliver(inBatch)
    } catch (error) {
      this.#fail(inBatch, error)
    }
  }

  #fail(slots: ReadonlyArray<Slot>, error: unknown): void {
    for (const slot of slots) slot.end((task) => task.fail(error))
  }

  #fill(busy: ReadonlyArray<Slot>, mayBeLong: boolean): void {
    const batch = this.#batch
    batch.clear()
    for (const slot of busy) {
      slot.batchCount = 0
      slot.draft.length = 0
    }
    const generating = busy.filter((slot) => slot.pendingCount === 1)
    const prompts = busy.filter((slot) => slot.pendingCount > 1)
    // Who waits for the next token does not wait for the whole of another's prompt; and whole texts are computed in one step.
    const isShort = !mayBeLong || generating.length > 0 || prompts.some(({ task }) => task!.isWhole)
    // A small step has a token of each text all the same, and one of a prompt.
    const stepSize = Math.max(this.#options.promptStepSize, generating.length + 1)
    const most = isShort ? Math.min(batch.capacity, stepSize) : batch.capacity
    prompts.sort((a, b) => a.usedAt - b.usedAt)
    this.#draft(generating, prompts, most)
    const inTurn = [...generating, ...prompts]
    // Each slot may have an output, and so has each guess.
    let outputsLeft = this.#context.outputCount - this.slots.length
    for (const { draft } of generating) outputsLeft -= draft.length
    // Where not even a batch has room for all, nobody is to be left out again and again.
    if (this.#takesTurns || generating.length >= batch.capacity) {
      inTurn.sort((a, b) => a.computedAt - b.computedAt)
    }
    for (const slot of inTurn) {
      const { task, pendingCount } = slot
      // It may have lost its slot to make room for another.
      if (task === undefined) continue
      if (this.#takesTurns && batch.count > 0) break
      const count = Math.min(
        pendingCount,
        most - batch.count,
        task.outputs === "all" ? outputsLeft : most,
      )
      if (count <= 0 || (task.isWhole && count < pendingCount)) continue
      if (!this.#makeRoom(slot, count)) continue
      this.#add(slot, task, count)
      outputsLeft -= task.outputs === "all" ? count : 0
    }
  }

  /** Guesses take room of the batch, and cells of the cache, that nobody else needs: half of it where prompts wait. */
  #draft(generating: ReadonlyArray<Slot>, prompts: ReadonlyArray<Slot>, most: number): void {
    let freeCount = this.#freeCount() - generating.length
    for (const { pendingCount } of prompts) freeCount -= pendingCount
    // A window's cells are overwritten from micro-batch to micro-batch: a guess in a later one than the text's own token, which is
    // taken back, would have taken cells that the text still needs.
    const { ubatchSize } = this.#context
    const room =
      (this.#options.slidingWindow > 0 ? Math.min(most, ubatchSize) : most) - generating.length
    this.#speculation.draft(generating, Math.min(prompts.length > 0 ? room >> 1 : room, freeCount))
  }

  #add(slot: Slot, { tokens, outputs }: Task, count: number): void {
    const batch = this.#batch
    const first = slot.tokens.length
    const allOut = outputs === "all" || this.#putsAllOut
    slot.computedAt = this.#options.count()
    slot.batchIndex = batch.count
    slot.batchCount = count
    for (let position = first; position < first + count; position++) {
      batch.add(
        tokens[position]!,
        position,
        slot.sequence,
        allOut || position === tokens.length - 1,
      )
    }
    for (const [index, token] of slot.draft.entries()) {
      batch.add(token, first + count + index, slot.sequence, true)
    }
    slot.batchCount += slot.draft.length
  }

  /** Cells that hold nothing and that the batch does not take, by the least that all sequences may share. */
  #freeCount(): number {
    let taken = 0
    for (const { task, tokens, batchCount } of this.slots) {
      // The count of an idle slot is of an earlier batch.
      taken += tokens.length + (task === undefined ? 0 : batchCount)
    }
    return this.#context.contextSize - taken
  }

  /**
   * Sees that the cache has cells for so many more tokens: forgets what idle slots keep, the longest unused first, then takes the
   * slot from the text that got its own last. That one will be computed again, when there is room.
   */
  #makeRoom(slot: Slot, count: number): boolean {
    while (this.#freeCount() < count) {
      const idle = this.#least(({ task, tokens }) => task === undefined && tokens.length > 0)
      if (idle !== undefined) idle.clear()
      else if (!this.#preempt(slot)) return true
      else if (slot.task === undefined) return false
    }
    return true
  }

  /** False when no other text is at work. */
  #preempt(slot: Slot): boolean {
    let youngest = slot
    let othersCount = 0
    for (const other of this.slots) {
      if (other.task === undefined || other.batchCount > 0) continue
      if (other !== slot) othersCount++
      if (other.usedAt > youngest.usedAt) youngest = other
    }
    if (othersCount === 0 && this.#batch.count === 0) return false
    this.#options.requeue(youngest.task!)
    youngest.task = undefined
    youngest.clear()
    return true
  }

  #least(isMeant: (slot: Slot) => boolean): Slot | undefined {
    let found: Slot | undefined
    for (const slot of this.slots) {
      if (isMeant(slot) && (found === undefined || slot.usedAt < found.usedAt)) found = slot
    }
    return found
  }

  /** Whether the batch is being computed, or was. */
  #decode(busy: ReadonlyArray<Slot>): boolean {
    const inBatch = busy.filter(({ batchCount }) => batchCount > 0)
    // A cancel stops a batch in the middle only where nobody else has a part in it.
    this.#host.setRunning(inBatch.length === 1 ? inBatch[0]!.task!.id : 0)
    const status = this.#context.decodeBatch(this.#batch)
    this.#host.setRunning(0)
    this.#host.flush()
    this.#host.failIfLost()
    if (status === 0) return true
    // What it left of the batch in the cache is nobody's.
    for (const slot of inBatch) this.#rollBack(slot)
    if (status === ABORTED && inBatch.some(({ task }) => this.#host.isCancelled(task!.id))) {
      return false
    }
    const detail = `${decodeStatusText(status)}.`
    const error = new ModelError({ path: this.#options.path, during: "decode", detail })
    this.#fail(inBatch, error)
    return false
  }

  #rollBack(slot: Slot): void {
    if (this.#context.removeFrom(slot.tokens.length, slot.sequence)) return
    slot.clear()
    this.#speculation.giveUp("the model's memory does not let go of a token")
  }

  #deliver(inBatch: ReadonlyArray<Slot>): void {
    for (const slot of inBatch) {
      const { task, tokens, draft } = slot
      if (task === undefined) continue
      const first = tokens.length
      const count = slot.batchCount - draft.length
      for (let index = first; index < first + count; index++) tokens.push(task.tokens[index]!)
      const isLast = tokens.length === task.tokens.length
      if (task.outputs === "last" && !isLast) continue
      try {
        const hasEnded =
          task.outputs === "all"
            ? task.take(this.#context, first, count, slot.batchIndex)
            : this.#takeLast(slot, task, slot.batchIndex + count - 1)
        if (hasEnded) slot.task = undefined
      } catch (error) {
        slot.end(() => task.fail(error))
      }
    }
  }

  /**
   * Takes the output of a text's last token, at an index of the batch; then those of guesses, as long as they are what the text
   * chose, and forgets the others. Whether the text has ended.
   */
  #takeLast(slot: Slot, task: Task, index: number): boolean {
    const { draft, tokens } = slot
    if (draft.length === 0) return task.take(this.#context, tokens.length - 1, 1, index)
    let acceptedCount = 0
    task.drafted(draft.length, 0)
    try {
      let hasEnded = task.take(this.#context, tokens.length - 1, 1, index)
      while (!hasEnded && acceptedCount < draft.length) {
        if (task.tokens[tokens.length] !== draft[acceptedCount]) break
        tokens.push(draft[acceptedCount]!)
        task.drafted(0, 1)
        hasEnded = task.take(this.#context, tokens.length - 1, 1, index + ++acceptedCount)
      }
      return hasEnded
    } finally {
      if (acceptedCount < draft.length) this.#rollBack(slot)
      this.#speculation.learn(slot, draft.length, acceptedCount)
    }
  }
}

/** llama_decode's status. */
const ABORTED = 2
