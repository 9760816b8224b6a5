/**
 * Many texts at once over one context: each has a slot, which is a sequence of the cache, and every step computes one
 * batch with the next token of each text that is being generated and as much of new prompts as there is room for.
 */
import { Batch, decodeStatusText, type ModelContext } from "@ggml-rpc/native/bindings/llama"
import { allTokensOut } from "../../allTokensOut.ts"
import { ModelError } from "../../errors.ts"
import type { Loaded } from "../Loaded.ts"
import type { SlotState } from "../messages.ts"
import { commonLength } from "./commonLength.ts"
import { draftersOf } from "./drafting/draftersOf.ts"
import { Speculation } from "./drafting/Speculation.ts"
import { Slot } from "./Slot.ts"
import type { Task } from "./Task.ts"

/** What steps look at. */
export interface SlotsHost {
  /** Throws the error of a lost connection. */
  readonly failIfLost: () => void
  readonly isCancelled: (id: number) => boolean
  /** From now on a cancel of this request stops what is being computed; 0: of none. */
  readonly setRunning: (id: number) => void
}

/**
 * Architectures whose graphs read behind their state where a batch has tokens of several sequences (llama.cpp v0.5.0,
 * src/models/plamo2.cpp), which ends the process. Their texts take turns, a batch each.
 */
const oneTextABatch: ReadonlySet<string> = new Set(["plamo2"])

/** The part of a prompt that a slot's cache must have for the slot to be preferred to one that was not used for longer. */
const LEAST_SIMILARITY = 0.1

export class Slots {
  readonly #context: ModelContext
  readonly #host: SlotsHost
  readonly #path: string
  readonly #slots: ReadonlyArray<Slot>
  readonly #batch: Batch
  readonly #takesTurns: boolean
  readonly #putsAllOut: boolean
  readonly #speculation: Speculation
  /** Without a slot, the first to get one first. */
  readonly #queue: Array<Task> = []
  /** What waits for a slot to be idle. */
  readonly #chores: Array<{ readonly slot: number; readonly run: (slot: Slot) => void }> = []
  #useCount = 0

  constructor(
    loaded: Loaded,
    slotCount: number,
    host: SlotsHost,
    draft: Loaded | undefined = undefined,
  ) {
    const { context, model, path } = loaded
    this.#context = context
    this.#host = host
    this.#path = path
    this.#slots = Array.from({ length: slotCount }, (_, id) => new Slot(id, context, model.info))
    this.#takesTurns = oneTextABatch.has(model.info.architecture)
    this.#putsAllOut = allTokensOut.has(model.info.architecture)
    this.#speculation = new Speculation(draftersOf(loaded, draft, host))
    this.#batch = new Batch(Math.min(context.batchSize, context.contextSize))
  }

  get isIdle(): boolean {
    return (
      this.#queue.length === 0 &&
      this.#chores.length === 0 &&
      this.#slots.every(({ task }) => task === undefined)
    )
  }

  get count(): number {
    return this.#slots.length
  }

  get queuedCount(): number {
    return this.#queue.length
  }

  states(): ReadonlyArray<SlotState> {
    return this.#slots.map((slot) => slot.state())
  }

  /** Frees what is native besides the models. */
  release(): void {
    this.#speculation.release()
  }

  submit(task: Task): void {
    this.#queue.push(task)
  }

  /** Runs as soon as no text is at work in the slot. */
  whenIdle(slot: number, run: (slot: Slot) => void): void {
    this.#chores.push({ slot, run })
  }

  /** Computes one batch. Does not throw: what goes wrong ends the tasks that it is about. */
  step(): void {
    this.#dropCancelled()
    this.#doChores()
    this.#admit()
    const busy = this.#slots.filter(({ task }) => task !== undefined)
    if (busy.length === 0) return
    try {
      this.#host.failIfLost()
      this.#fill(busy)
      if (this.#batch.count > 0 && this.#decode(busy)) this.#deliver(busy)
    } catch (error) {
      for (const slot of busy) this.#end(slot, (task) => task.fail(error))
    }
  }

  #dropCancelled(): void {
    for (let index = this.#queue.length - 1; index >= 0; index--) {
      const task = this.#queue[index]!
      if (!this.#host.isCancelled(task.id)) continue
      this.#queue.splice(index, 1)
      task.cancel()
    }
    for (const slot of this.#slots) {
      if (slot.task !== undefined && this.#host.isCancelled(slot.task.id)) {
        this.#end(slot, (task) => task.cancel())
      }
    }
  }

  #doChores(): void {
    for (let index = 0; index < this.#chores.length; ) {
      const { slot: id, run } = this.#chores[index]!
      const slot = this.#slots[id]!
      if (slot.task !== undefined) {
        index++
        continue
      }
      this.#chores.splice(index, 1)
      run(slot)
    }
  }

  /** Gives slots to those who wait: in their order, but who must have a certain one keeps nobody else waiting. */
  #admit(): void {
    for (let index = 0; index < this.#queue.length; ) {
      const task = this.#queue[index]!
      const slot = this.#slotFor(task)
      if (slot === undefined) {
        if (task.slot < 0) return
        index++
        continue
      }
      if (!this.#hasRoomFor(task)) return
      this.#queue.splice(index, 1)
      this.#begin(slot, task)
    }
  }

  /** An idle slot whose cache begins as the task does, else the one that was not used for longest. */
  #slotFor(task: Task): Slot | undefined {
    if (task.slot >= 0) {
      const wanted = this.#slots[task.slot]!
      return wanted.task === undefined ? wanted : undefined
    }
    let best: Slot | undefined
    let bestLength = task.reusesCache ? LEAST_SIMILARITY * task.tokens.length : Infinity
    let oldest: Slot | undefined
    for (const slot of this.#slots) {
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

  /** Texts at work keep their cells, and whose tokens do not fit beside them waits. */
  #hasRoomFor(task: Task): boolean {
    let taken = 0
    for (const slot of this.#slots) taken += slot.task?.tokens.length ?? 0
    return taken === 0 || taken + task.tokens.length < this.#context.contextSize
  }

  #begin(slot: Slot, task: Task): void {
    slot.task = task
    slot.usedAt = ++this.#useCount
    this.#context.wantCandidates(slot.id, this.#putsAllOut ? 0 : task.candidateCount)
    try {
      if (task.reusesCache) this.#reuse(slot, task)
      else slot.clear()
      const hasEnded = task.begin({
        slot: slot.id,
        cachedCount: slot.tokens.length,
        shift: (keptCount) => slot.shift(keptCount),
      })
      if (hasEnded) slot.task = undefined
    } catch (error) {
      this.#end(slot, () => task.fail(error))
    }
  }

  /** Keeps of the slot's cache, or takes over from another, what the task begins with. Its last token is always computed. */
  #reuse(slot: Slot, { tokens }: Task): void {
    const lengthIn = (other: Slot): number =>
      Math.min(commonLength(other.tokens, tokens), tokens.length - 1)
    let source = slot
    let length = lengthIn(slot)
    for (const other of this.#slots) {
      if (!other.canBeCopied || lengthIn(other) <= length) continue
      source = other
      length = lengthIn(other)
    }
    if (source === slot) slot.keep(length)
    else slot.copy(source, length)
  }

  #fill(busy: ReadonlyArray<Slot>): void {
    const batch = this.#batch
    batch.clear()
    for (const slot of busy) {
      slot.batchCount = 0
      slot.draft.length = 0
    }
    const generating = busy.filter((slot) => slot.pendingCount === 1)
    const prompts = busy.filter((slot) => slot.pendingCount > 1)
    // Who waits for the next token does not wait for the whole of another's prompt; and whole texts are computed in one step.
    const isShort = generating.length > 0 || prompts.some(({ task }) => task!.isWhole)
    const most = isShort ? Math.min(batch.capacity, this.#context.ubatchSize) : batch.capacity
    prompts.sort((a, b) => a.usedAt - b.usedAt)
    this.#draft(generating, prompts, most)
    const inTurn = [...generating, ...prompts]
    // Each slot may have an output, and so has each guess.
    let outputsLeft = this.#context.outputCount - this.#slots.length
    for (const { draft } of generating) outputsLeft -= draft.length
    if (this.#takesTurns) inTurn.sort((a, b) => a.computedAt - b.computedAt)
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
      if (count === 0 || (task.isWhole && count < pendingCount)) continue
      if (!this.#makeRoom(slot, count)) continue
      this.#add(slot, task, count)
      outputsLeft -= task.outputs === "all" ? count : 0
    }
  }

  /** Guesses take room of the batch, and cells of the cache, that nobody else needs: half of it where prompts wait. */
  #draft(generating: ReadonlyArray<Slot>, prompts: ReadonlyArray<Slot>, most: number): void {
    let freeCount = this.#freeCount() - generating.length
    for (const { pendingCount } of prompts) freeCount -= pendingCount
    const room = most - generating.length
    this.#speculation.draft(generating, Math.min(prompts.length > 0 ? room >> 1 : room, freeCount))
  }

  #add(slot: Slot, { tokens, outputs }: Task, count: number): void {
    const batch = this.#batch
    const first = slot.tokens.length
    const allOut = outputs === "all" || this.#putsAllOut
    slot.computedAt = ++this.#useCount
    slot.batchIndex = batch.count
    slot.batchCount = count
    for (let position = first; position < first + count; position++) {
      batch.add(tokens[position]!, position, slot.id, allOut || position === tokens.length - 1)
    }
    for (const [index, token] of slot.draft.entries()) {
      batch.add(token, first + count + index, slot.id, true)
    }
    slot.batchCount += slot.draft.length
  }

  /** Cells that hold nothing, by the least that all sequences may share. */
  #freeCount(): number {
    let taken = 0
    for (const { tokens, batchCount } of this.#slots) taken += tokens.length + batchCount
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
    for (const other of this.#slots) {
      if (other.task === undefined || other.batchCount > 0) continue
      if (other !== slot) othersCount++
      if (other.usedAt > youngest.usedAt) youngest = other
    }
    if (othersCount === 0 && this.#batch.count === 0) return false
    this.#queue.unshift(youngest.task!)
    youngest.task = undefined
    youngest.clear()
    return true
  }

  #least(isMeant: (slot: Slot) => boolean): Slot | undefined {
    let found: Slot | undefined
    for (const slot of this.#slots) {
      if (isMeant(slot) && (found === undefined || slot.usedAt < found.usedAt)) found = slot
    }
    return found
  }

  /** Whether the batch was computed. */
  #decode(busy: ReadonlyArray<Slot>): boolean {
    const inBatch = busy.filter(({ batchCount }) => batchCount > 0)
    // A cancel stops a batch in the middle only where nobody else has a part in it.
    this.#host.setRunning(inBatch.length === 1 ? inBatch[0]!.task!.id : 0)
    const status = this.#context.decodeBatch(this.#batch)
    this.#host.setRunning(0)
    this.#host.failIfLost()
    if (status === 0) return true
    // What it left of the batch in the cache is nobody's.
    for (const slot of inBatch) this.#rollBack(slot)
    if (status === ABORTED && inBatch.some(({ task }) => this.#host.isCancelled(task!.id))) {
      return false
    }
    const detail = `${decodeStatusText(status)}.`
    const error = new ModelError({ path: this.#path, during: "decode", detail })
    for (const slot of inBatch) this.#end(slot, (task) => task.fail(error))
    return false
  }

  #rollBack(slot: Slot): void {
    if (this.#context.removeFrom(slot.tokens.length, slot.id)) return
    slot.clear()
    this.#speculation.giveUp()
  }

  #deliver(busy: ReadonlyArray<Slot>): void {
    for (const slot of busy) {
      const { task, tokens, draft } = slot
      if (task === undefined || slot.batchCount === 0) continue
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
        this.#end(slot, () => task.fail(error))
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

  #end(slot: Slot, end: (task: Task) => void): void {
    const { task } = slot
    slot.task = undefined
    if (task !== undefined) end(task)
  }
}

/** llama_decode's status. */
const ABORTED = 2
