/**
 * Many texts at once: each has a slot, which is a sequence of a context's cache. Where a model lies on several servers there are
 * as many contexts, whose groups of slots take turns: while one server computes a batch of one, the next server computes that of
 * another.
 */
import type { Loaded } from "../Loaded.ts"
import type { SlotState } from "../messages.ts"
import { draftersOf } from "./drafting/draftersOf.ts"
import { Speculation } from "./drafting/Speculation.ts"
import { Group } from "./Group.ts"
import { Slot } from "./Slot.ts"
import type { Task } from "./Task.ts"

/** What steps look at. */
export interface SlotsHost {
  /** Throws the error of a lost connection. */
  readonly failIfLost: () => void
  readonly isCancelled: (id: number) => boolean
  /** From now on a cancel of this request stops what is being computed; 0: of none. */
  readonly setRunning: (id: number) => void
  /** Lets what was asked of servers leave. */
  readonly flush: () => void
  /** Tells what makes texts slower than they could be. */
  readonly note: (text: string) => void
}

/**
 * What a text beside another one in a group costs while there is a group with less to do, as tokens of a prompt: that many more
 * have to be in the busier group's cache for the text to be better off there. A group that has nothing to do leaves servers idle for
 * the whole length of a text, and a token of a prompt costs a small part of a generated one.
 */
const COMPANY_COST_TOKENS = 1024

export class Slots {
  readonly #host: SlotsHost
  readonly #groups: ReadonlyArray<Group>
  readonly #slots: ReadonlyArray<Slot>
  readonly #speculation: Speculation
  /** Without a slot, the first to get one first. */
  readonly #queue: Array<Task> = []
  /** What waits for a slot to be idle. */
  readonly #chores: Array<{ readonly slot: number; readonly run: (slot: Slot) => void }> = []
  /** Whose batches are being computed, in the order in which they were started. */
  readonly #underWay: Array<Group> = []
  #useCount = 0

  /** Each context gets its share of the slots, in turn: slot 0 the first one, slot 1 the second. */
  constructor(
    loaded: Loaded,
    slotCount: number,
    host: SlotsHost,
    draft: Loaded | undefined = undefined,
  ) {
    const { contexts, model, path } = loaded
    const { info } = model
    const { length: groupCount } = contexts
    this.#host = host
    this.#speculation = new Speculation(draftersOf(loaded, draft, host), host)
    this.#slots = Array.from({ length: slotCount }, (_, id) => {
      const sequence = Math.floor(id / groupCount)
      return new Slot(id, contexts[id % groupCount]!, sequence, info)
    })
    this.#groups = contexts.map(
      (context) =>
        new Group({
          context,
          slots: this.#slots.filter((slot) => slot.context === context),
          architecture: info.architecture,
          slidingWindow: info.slidingWindow,
          path,
          host,
          speculation: this.#speculation,
          promptStepSize: loaded.options.promptStepSize ?? context.ubatchSize,
          count: () => ++this.#useCount,
          requeue: (task) => this.#queue.unshift(task),
        }),
    )
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

  /**
   * Starts a batch of each group that has none under way, and finishes the one that was started first. Does not throw: what goes
   * wrong ends the tasks that it is about.
   */
  step(): void {
    this.#dropCancelled()
    this.#doChores()
    this.#admit()
    for (const group of this.#groups) {
      if (group.isUnderWay) continue
      const mayBeLong = this.#groups.every((other) => other === group || !other.isGenerating)
      if (group.start(mayBeLong)) this.#underWay.push(group)
    }
    this.#underWay.shift()?.finish()
  }

  #dropCancelled(): void {
    for (let index = this.#queue.length - 1; index >= 0; index--) {
      const task = this.#queue[index]!
      if (!this.#host.isCancelled(task.id)) continue
      this.#queue.splice(index, 1)
      task.cancel()
    }
    for (const group of this.#groups) {
      // What a batch under way is about stays until that is finished.
      if (group.isUnderWay) continue
      for (const slot of group.slots) {
        if (slot.task !== undefined && this.#host.isCancelled(slot.task.id)) {
          slot.end((task) => task.cancel())
        }
      }
    }
  }

  #doChores(): void {
    for (let index = 0; index < this.#chores.length; ) {
      const { slot: id, run } = this.#chores[index]!
      const slot = this.#slots[id]!
      if (slot.task !== undefined || this.#groupOf(id).isUnderWay) {
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
      const group = this.#groupFor(task)
      const slot = task.slot >= 0 ? this.#slots[task.slot]! : group?.slotFor(task)
      if (slot === undefined || slot.task !== undefined) {
        if (task.slot < 0) return
        index++
        continue
      }
      // What a batch is about stays as it is until that is finished, and a group's turn comes soon.
      if (group!.isUnderWay || !group!.hasRoomFor(task)) {
        if (task.slot < 0) return
        index++
        continue
      }
      this.#queue.splice(index, 1)
      group!.begin(slot, task)
    }
  }

  #groupOf(slot: number): Group {
    return this.#groups[slot % this.#groups.length]!
  }

  /**
   * The group for a text: of those with an idle slot, and with room if there is one, where least is to be computed; see
   * `COMPANY_COST_TOKENS`.
   */
  #groupFor(task: Task): Group | undefined {
    if (task.slot >= 0) return this.#groupOf(task.slot)
    const open = this.#groups.filter(({ hasIdleSlot }) => hasIdleSlot)
    const withRoom = open.filter((group) => group.hasRoomFor(task))
    let best: Group | undefined
    let bestCost = Infinity
    for (const group of withRoom.length > 0 ? withRoom : open) {
      const cost = COMPANY_COST_TOKENS * group.busyCount - group.reusableCount(task)
      const isBetter = cost < bestCost || (cost === bestCost && group.idleSince < best!.idleSince)
      if (best !== undefined && !isBetter) continue
      best = group
      bestCost = cost
    }
    return best
  }
}
