/** What is run, by model. */
import { type ModelName, randomModels } from "../models/models.ts"
import type { ClientJob } from "./sides.ts"

export interface Workload {
  readonly label: string
  readonly promptTokens: number
  /** Tokens to generate. */
  readonly generate: number
  /** Prompt and generation, so often in one process. */
  readonly repeat: number
  readonly vocabularySize: number
  /**
   * Whether both sides are loaded at the same time and take turns. Not with the large model: two of it take memory that
   * the host of a virtual machine has to find first, and whoever loads second pays for that.
   */
  readonly inTurns: boolean
}

const LLAMA_VOCABULARY = 32000

export const workloads = {
  tiny: {
    label: "260 K parameters, F32",
    promptTokens: 512,
    generate: 256,
    repeat: 10,
    vocabularySize: randomModels.tiny.vocabulary,
    inTurns: true,
  },
  q8_0: {
    label: "58 MB, Q8_0",
    promptTokens: 512,
    generate: 128,
    repeat: 4,
    vocabularySize: LLAMA_VOCABULARY,
    inTurns: true,
  },
  q4_0: {
    label: "31 MB, Q4_0",
    promptTokens: 512,
    generate: 128,
    repeat: 4,
    vocabularySize: LLAMA_VOCABULARY,
    inTurns: true,
  },
  moe: {
    label: "23 MB, Q8_0, 8 of 64 experts",
    promptTokens: 512,
    generate: 128,
    repeat: 4,
    vocabularySize: randomModels.moe.vocabulary,
    inTurns: true,
  },
  large: {
    label: "891 MB, Q8_0",
    promptTokens: 512,
    generate: 64,
    repeat: 2,
    vocabularySize: LLAMA_VOCABULARY,
    inTurns: false,
  },
} as const satisfies Partial<Record<ModelName, Workload>>

export type BenchModel = keyof typeof workloads

export const benchModels = Object.keys(workloads) as readonly BenchModel[]

/** Room for the prompt and what is generated. */
const CONTEXT_SIZE = 1024

export const jobFor = (modelPath: string, workload: Workload): ClientJob => ({
  modelPath,
  prompt: promptOf(workload.promptTokens, workload.vocabularySize),
  generate: workload.generate,
  repeat: workload.repeat,
  ubatchSize: 512,
  contextSize: CONTEXT_SIZE,
  inTurns: workload.inTurns,
})

/** Token ids all over the vocabulary; the first three are marks. */
export const promptOf = (count: number, vocabularySize: number): readonly number[] =>
  Array.from({ length: count }, (_, index) => 3 + ((index * 7919) % (vocabularySize - 3)))
