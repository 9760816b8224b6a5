/** A text that guesses are wanted for. */
export interface DraftedText {
  /** The sequence of the context that it is in: 0, 1, … */
  readonly id: number
  /** All its tokens, the last of which is not computed yet. */
  readonly tokens: ReadonlyArray<number>
  /** Most guesses that are wanted; above 0. */
  readonly most: number
  /** The guesses of what follows, in their order; empty when a drafter is asked. */
  readonly draft: Array<number>
}

/** Guesses how texts go on. The model computes all guesses in one step, and keeps what it would have said itself. */
export interface Drafter {
  /** Appends to the draft of each text, or leaves it empty. */
  draft(texts: ReadonlyArray<DraftedText>): void
  /** Frees what is native of it; the model is another's. */
  release(): void
  /** Guesses to begin a text with, before it is known how good they are. */
  readonly firstDepth: number
  /** Fewest guesses of a step that are any use. */
  readonly leastDepth: number
  /** Most guesses of a step. */
  readonly mostDepth: number
}
