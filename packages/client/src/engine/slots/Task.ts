import type { ModelContext } from "@ggml-rpc/native/bindings/llama"

/**
 * A text that is computed in a slot, beside others: its tokens go through the context in batches, and what comes out
 * is the task's. It ends itself, with a final event, in `take` (or `begin`), `cancel` or `fail`.
 */
export interface Task {
  /** Of the request. */
  readonly id: number
  /** All that is to be in the cache, from its beginning on; grows as tokens are chosen. */
  readonly tokens: Array<number>
  /** Which of them give an output. */
  readonly outputs: "last" | "all"
  /** Its outputs are so many of the most likely tokens at least; 0: all logits, or embeddings. */
  readonly candidateCount: number
  /** All tokens must be in one step. */
  readonly isWhole: boolean
  /** Whether the beginning may come from a slot's cache. */
  readonly reusesCache: boolean
  /** The slot that it must have; -1: any. */
  readonly slot: number
  /** Tokens that may be guessed of its next ones, and computed with the last: what it takes at most without ending or shifting. */
  readonly draftRoom: number
  /**
   * It has a slot, for the first time: checks what it was given, and does what comes before its tokens.
   *
   * @returns whether it has ended
   * @throws {ClusterError} why it cannot be done
   */
  begin(place: Place): boolean
  /**
   * Takes outputs of its tokens [first, first + count), which are at indexes from `index` on of the last batch.
   *
   * @returns whether it has ended
   * @throws {ClusterError}
   */
  take(context: ModelContext, first: number, count: number, index: number): boolean
  /** So many more guesses of its tokens were computed, and so many more were what it chose. */
  drafted(count: number, acceptedCount: number): void
  cancel(): void
  fail(error: unknown): void
}

/** The slot, as its task sees it. */
export interface Place {
  readonly slot: number
  /** Which one it is of its context's cache. */
  readonly sequence: number
  /** Tokens that were found in its cache. */
  readonly cachedCount: number
  /**
   * Forgets the older half of the tokens behind the first `keptCount`, in the cache and in those of the task; nothing where the
   * model cannot.
   */
  readonly shift: (keptCount: number) => void
}
