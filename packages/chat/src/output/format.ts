/** How the models of a template write what they think and which tools they call. */
import type { TemplateCapabilities } from "../template/capabilities.ts"
import { hermes, syntaxOf, type ToolSyntax } from "./syntax.ts"

export interface OutputFormat {
  /** Marks around thoughts; undefined where a model has none. */
  readonly thoughts: readonly [open: string, close: string] | undefined
  /** Marks around the answer itself, where there are any. */
  readonly answer: readonly [open: string, close: string] | undefined
  readonly tools: ToolSyntax
}

const thoughts: ReadonlyArray<readonly [open: string, close: string]> = [
  ["<|START_THINKING|>", "<|END_THINKING|>"],
  ["[THINK]", "[/THINK]"],
  ["<seed:think>", "</seed:think>"],
  ["<|channel>thought", "<channel|>"],
  ["<|inner_prefix|>", "<|inner_suffix|>"],
  ["<think>", "</think>"],
]

const answers: ReadonlyArray<readonly [open: string, close: string]> = [
  ["<|START_RESPONSE|>", "<|END_RESPONSE|>"],
  ["<|START_TEXT|>", "<|END_TEXT|>"],
  ["<response>", "</response>"],
]

export const outputFormatOf = (
  source: string,
  { describesTools, showsToolCalls }: TemplateCapabilities,
): OutputFormat => {
  // Templates that take earlier thoughts out name the closing mark alone, and Seed's builds both.
  const isIn = ([open, close]: readonly [string, string]): boolean =>
    source.includes(open) || source.includes(close)
  const syntax = syntaxOf(source)
  return {
    thoughts: thoughts.find(isIn),
    answer: answers.find(isIn),
    // A model whose template says nothing of tools is told of them in Hermes's words.
    tools: describesTools || showsToolCalls || syntax.shape === "harmony" ? syntax : hermes,
  }
}
