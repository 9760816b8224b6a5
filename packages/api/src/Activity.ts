/** What runs, what waits, and what has been done, by plain counters. */
import type { GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError } from "./ApiError.ts"

export class Activity {
  /** Texts that the model works on at once. */
  slotCount = 1
  readonly #maxQueued: number
  readonly #startedMs = new Set<{ readonly beganAtMs: number }>()
  /** Computed, not found in the cache. */
  promptTokenCount = 0
  cachedTokenCount = 0
  promptMs = 0
  tokenCount = 0
  /** The same as they come, those of texts at work included. */
  generatedTokenCount = 0
  generateMs = 0
  /** Tokens that were guessed, and those of them that were right. */
  draftedCount = 0
  acceptedCount = 0
  /** Longest text so far, its prompt included, in tokens. */
  maxTextTokenCount = 0
  finishedCount = 0
  /** Time of all that finished, waiting included. */
  finishedMs = 0

  /** So many may wait for a slot. */
  constructor(maxQueued: number) {
    this.#maxQueued = maxQueued
  }

  /** Requests at work. */
  get runningCount(): number {
    return Math.min(this.#startedMs.size, this.slotCount)
  }

  /** Requests that wait for a slot. */
  get queuedCount(): number {
    return this.#startedMs.size - this.runningCount
  }

  /** Works on all texts of a request, as many at once as there are slots, while it has a place. */
  each<T, A, R>(
    texts: ReadonlyArray<T>,
    work: (text: T) => Effect.Effect<A, ApiError, R>,
  ): Effect.Effect<ReadonlyArray<A>, ApiError, R> {
    return Effect.acquireUseRelease(
      Effect.try({ try: () => this.#enter(), catch: (error) => error as ApiError }),
      () => Effect.forEach(texts, work, { concurrency: this.slotCount }),
      (leave) => Effect.sync(leave),
    )
  }

  add(stats: GenerateStats): void {
    this.promptTokenCount += stats.promptTokenCount - stats.cachedTokenCount
    this.cachedTokenCount += stats.cachedTokenCount
    this.promptMs += stats.promptMs
    this.tokenCount += stats.tokenCount
    this.generateMs += stats.generateMs
    this.draftedCount += stats.draftedCount ?? 0
    this.acceptedCount += stats.acceptedCount ?? 0
    this.maxTextTokenCount = Math.max(
      this.maxTextTokenCount,
      stats.promptTokenCount + stats.tokenCount,
    )
  }

  /**
   * Takes a place for a request; what it returns gives the place back.
   *
   * @throws {ApiError} when too many wait already
   */
  #enter(): () => void {
    if (this.#startedMs.size >= this.slotCount + this.#maxQueued) {
      throw new ApiError({
        kind: "queue-full",
        message: `${this.queuedCount} requests wait already, which is as many as may: come back later.`,
        retryAfterSeconds: this.#likelyWaitSeconds(),
      })
    }
    const place = { beganAtMs: performance.now() }
    this.#startedMs.add(place)
    return () => {
      if (!this.#startedMs.delete(place)) return
      this.finishedCount += 1
      this.finishedMs += performance.now() - place.beganAtMs
    }
  }

  /** Until a slot is free, were all requests as long as those before. */
  #likelyWaitSeconds(): number {
    const each = this.finishedCount === 0 ? 1000 : this.finishedMs / this.finishedCount
    return Math.min(60, Math.max(1, Math.ceil(each / this.slotCount / 1000)))
  }
}
