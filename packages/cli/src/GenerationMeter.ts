import type { Cluster, GenerateStats } from "@ggml-rpc/client"

/** What a generation has come to so far, as seen from here: who interrupts it hears nothing more of the engine. */
export class GenerationMeter {
  readonly #promptTokenCount: number
  readonly #startedMs = performance.now()
  #firstMs = 0
  #lastMs = 0
  tokenCount = 0

  constructor(promptTokenCount: number) {
    this.#promptTokenCount = promptTokenCount
  }

  count({ id }: Cluster.GeneratedToken): void {
    if (id < 0) return
    this.#lastMs = performance.now()
    if (this.tokenCount++ === 0) this.#firstMs = this.#lastMs
  }

  /** The first token is taken to be there as soon as the prompt was. */
  get stats(): GenerateStats {
    return {
      promptTokenCount: this.#promptTokenCount,
      cachedTokenCount: 0,
      promptMs: this.#firstMs - this.#startedMs,
      tokenCount: this.tokenCount,
      generateMs: this.#lastMs - this.#firstMs,
      stopReason: "cancelled",
      slot: 0,
    }
  }
}
