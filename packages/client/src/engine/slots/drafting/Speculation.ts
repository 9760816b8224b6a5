/** Guesses for all texts that are being generated, and how many of them are worth a batch's room. */
import type { Slot } from "../Slot.ts"
import type { SlotsHost } from "../Slots.ts"
import type { Task } from "../Task.ts"
import { DraftDepth } from "./DraftDepth.ts"
import type { DraftedText, Drafter } from "./Drafter.ts"

/** What is known of the text in a slot. */
interface Course {
  readonly task: Task
  /** One a drafter. */
  readonly depths: ReadonlyArray<DraftDepth>
  /** The drafter whose guesses are being computed. */
  drafter: number
}

export class Speculation {
  /** In the order in which they are asked: what one has a guess for, the next is not asked. */
  readonly #drafters: ReadonlyArray<Drafter>
  /** By slot. */
  readonly #courses: Array<Course | undefined> = []
  #isOff = false

  readonly #host: Pick<SlotsHost, "failIfLost" | "note">

  /** @param host its error of a lost connection ends texts, whoever noticed it */
  constructor(drafters: ReadonlyArray<Drafter>, host: Pick<SlotsHost, "failIfLost" | "note">) {
    this.#drafters = drafters
    this.#host = host
  }

  /**
   * Puts guesses into the slots' drafts, `roomCount` tokens of a batch at most together; those of a slot are at most what its
   * text can take. Where guessing fails there are no more guesses: texts go on without.
   */
  draft(slots: ReadonlyArray<Slot>, roomCount: number): void {
    if (this.#isOff || slots.length === 0) return
    const share = Math.floor(roomCount / slots.length)
    if (share < 1) return
    try {
      this.#ask(slots, share)
    } catch (error) {
      this.#host.failIfLost()
      for (const slot of slots) slot.draft.length = 0
      this.giveUp(error instanceof Error ? error.message : String(error))
    }
  }

  #ask(slots: ReadonlyArray<Slot>, share: number): void {
    for (const [at, drafter] of this.#drafters.entries()) {
      const texts: Array<DraftedText> = []
      for (const slot of slots) {
        if (slot.draft.length > 0) continue
        const course = this.#courseOf(slot)
        const most = Math.min(share, slot.task!.draftRoom, course.depths[at]!.next())
        if (most < 1) continue
        course.drafter = at
        texts.push({ id: slot.id, tokens: slot.task!.tokens, most, draft: slot.draft })
      }
      if (texts.length > 0) drafter.draft(texts)
    }
  }

  /** Of a slot's guesses so many were what the model would have said. */
  learn(slot: Slot, draftedCount: number, acceptedCount: number): void {
    const course = this.#courseOf(slot)
    course.depths[course.drafter]!.learn(draftedCount, acceptedCount)
  }

  /** The model's memory does not let go of wrong guesses, or there is no way to make any: no more of them, which is told. */
  giveUp(reason: string): void {
    if (this.#isOff || this.#drafters.length === 0) return
    this.#isOff = true
    const why = reason.replace(/\.$/, "")
    this.#host.note(`No more tokens are guessed, and texts go on one token at a time: ${why}.`)
  }

  release(): void {
    for (const drafter of this.#drafters) drafter.release()
  }

  #courseOf(slot: Slot): Course {
    // At work as long as it has guesses.
    const task = slot.task!
    let course = this.#courses[slot.id]
    if (course?.task !== task) {
      const depths = this.#drafters.map(
        (drafter) => new DraftDepth(drafter.firstDepth, drafter.mostDepth, drafter.leastDepth),
      )
      course = { task, depths, drafter: 0 }
      this.#courses[slot.id] = course
    }
    return course
  }
}
