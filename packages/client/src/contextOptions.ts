/** What a context is made with: llama-cli's defaults, and what the architecture asks for. */
import { type GgufFile, ggufInteger, ggufString } from "@ggml-rpc/gguf"
import { defaultThreadCount, kvTypes } from "@ggml-rpc/native/bindings/llama"
import { allTokensOut } from "./allTokensOut.ts"
import type { EngineContextOptions, SpeculationOptions } from "./engine/messages.ts"
import { PlanError } from "./errors.ts"
import type { PlanOptions, Speculation } from "./ModelPlan.ts"

/** llama.cpp shrinks a context that was not asked for no further than this. */
export const MIN_CONTEXT_SIZE = 4096
/** libllama rounds a context up to a multiple of this (llama-context.cpp, v0.5.0). */
const CONTEXT_STEP = 256
/** llama-cli's. */
const DEFAULT_BATCH_SIZE = 2048

/** llama_pooling_type (llama.h), by llama-server's names. */
export const poolingTypes = { none: 0, mean: 1, cls: 2, last: 3, rank: 4 } as const

/** LLAMA_MAX_SEQ (llama-cparams.h, v0.5.0). */
const MAX_SLOTS = 256

/** Architectures whose graphs end in embeddings, not logits (llama.cpp v0.5.0 src/models). */
const embeddingArchitectures: ReadonlySet<string> = new Set([
  "bert",
  "eurobert",
  "gemma-embedding",
  "jina-bert-v2",
  "jina-bert-v3",
  "llama-embed",
  "modern-bert",
  "neo-bert",
  "nomic-bert",
  "nomic-bert-moe",
  "t5encoder",
  "wavtokenizer-dec",
])

/** Attention to both sides, or an encoder: all tokens must be in one step (llama.cpp v0.5.0 src/models). */
const wholeBatchArchitectures: ReadonlySet<string> = new Set([
  ...embeddingArchitectures,
  "dream",
  "llada",
  "llada-moe",
  "rnd1",
  "t5",
])

const needsWholeBatch = (gguf: GgufFile, architecture: string): boolean => {
  const causal = gguf.metadata.get(`${architecture}.attention.causal`)
  return (
    wholeBatchArchitectures.has(architecture) || (causal?.type === "bool" && causal.value === false)
  )
}

/**
 * Rows of a table of positions, which gpt2, starcoder, bert and their like have; kernels look a token's up in it, wherever that is.
 */
const learnedPositions = (gguf: GgufFile): number | undefined =>
  gguf.tensors.find(({ name }) => name === "position_embd.weight")?.ne[1]

/** llama-server's defaults (llama.cpp v0.5.0, common/common.h `common_params_speculative_draft`). */
const guessing = ({ ngram, draft }: Speculation): SpeculationOptions => ({
  ...(ngram && { ngram }),
  ...(draft && {
    draft: {
      draftCount: draft.draftCount ?? 3,
      leastCount: draft.leastCount ?? 0,
      leastProbability: draft.leastProbability ?? 0,
    },
  }),
})

/** Each text has one output a step, and one for each guess; and some tokens of texts that are evaluated after all have, too. */
const outputsOf = (
  slotCount: number,
  batchSize: number,
  { ngram, draft }: SpeculationOptions = {},
): number => {
  const guessCount = Math.max(ngram?.draftCount ?? 0, draft?.draftCount ?? 0)
  // One at least for a text that is evaluated while all slots have theirs.
  const least = slotCount + 1
  return Math.max(least, Math.min(batchSize, slotCount * (2 + guessCount) + EVALUATED_OUTPUTS))
}

const EVALUATED_OUTPUTS = 16

/** @throws {PlanError} for a context that the model cannot have */
export const contextOptions = (gguf: GgufFile, options: PlanOptions): EngineContextOptions => {
  const threads = options.threads ?? defaultThreadCount()
  const architecture = ggufString(gguf, "general.architecture") ?? ""
  const trained = ggufInteger(gguf, `${architecture}.context_length`) ?? MIN_CONTEXT_SIZE
  const positionCount = learnedPositions(gguf)
  if (positionCount !== undefined && (options.contextSize ?? 0) > positionCount) {
    throw new PlanError({
      reason: "positions",
      detail: `A context of ${options.contextSize} tokens is more than ${gguf.path} can have: it learned ${positionCount} positions, and there are none behind them. Give --ctx-size ${positionCount} or less.`,
    })
  }
  const slotCount = options.slots ?? 1
  if (!(Number.isInteger(slotCount) && slotCount >= 1 && slotCount <= MAX_SLOTS)) {
    throw new PlanError({
      reason: "slots",
      detail: `${slotCount} texts cannot be at work at once: give a whole number from 1 to ${MAX_SLOTS}.`,
    })
  }
  const wanted = options.contextSize || Math.min(trained, positionCount ?? trained)
  const contextSize = Math.ceil(wanted / CONTEXT_STEP) * CONTEXT_STEP
  const isEmbedding = options.embeddings ?? embeddingArchitectures.has(architecture)
  const pooling = options.pooling ?? (options.embeddings ? "model" : "none")
  // What is pooled must be in one step.
  const wholeBatch = needsWholeBatch(gguf, architecture) || (isEmbedding && pooling !== "none")
  const ubatchSize =
    options.ubatchSize ??
    (wholeBatch ? (options.batchSize ?? Math.min(contextSize, DEFAULT_BATCH_SIZE)) : 512)
  const batchSize = wholeBatch ? ubatchSize : (options.batchSize ?? DEFAULT_BATCH_SIZE)
  const speculation =
    options.speculation && !isEmbedding ? guessing(options.speculation) : undefined
  const outputCount =
    options.generatesOnly && !isEmbedding && !wholeBatch && !allTokensOut.has(architecture)
      ? outputsOf(slotCount, batchSize, speculation)
      : undefined
  return {
    contextSize,
    batchSize,
    ubatchSize: Math.min(batchSize, ubatchSize),
    threads,
    threadsBatch: threads,
    flashAttention: { on: 1, off: 0, auto: -1 }[options.flashAttention ?? "auto"] as -1 | 0 | 1,
    typeK: kvTypes[options.typeK ?? "f16"],
    typeV: kvTypes[options.typeV ?? "f16"],
    ...(options.kvOffload === false && { offloadKqv: false }),
    ...(options.rope !== undefined && { rope: options.rope }),
    embeddings: isEmbedding,
    ...(isEmbedding && { pooling: pooling === "model" ? -1 : poolingTypes[pooling] }),
    ...(slotCount > 1 && { slotCount }),
    ...(speculation !== undefined && { speculation }),
    ...(outputCount !== undefined && { outputCount }),
    wholeBatch,
    ...(positionCount === undefined ? {} : { positionCount }),
  }
}
