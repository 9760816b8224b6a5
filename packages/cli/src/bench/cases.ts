/** What the flags of `bench` ask for: a model loaded in some ways, and tests on each of them. */
import type { KvTypeName } from "@ggml-rpc/native"

/** How a model is loaded and computed with. */
export interface BenchSetting {
  readonly path: string
  /** -1: all that fit. */
  readonly gpuLayers: number
  readonly splitMode: "layer" | "tensor"
  readonly wire: "f32" | "bf16"
  /** Undefined: by free memory. */
  readonly tensorSplit: ReadonlyArray<number> | undefined
  readonly batchSize: number
  /** Undefined: as the plan has it. */
  readonly ubatchSize: number | undefined
  readonly typeK: KvTypeName
  readonly typeV: KvTypeName
  readonly flashAttention: "on" | "off" | "auto"
  readonly threads: number
}

/** What is timed, in tokens of each text. */
export interface BenchTest {
  /** 0: the text begins by itself. */
  readonly promptCount: number
  /** 0: nothing is generated. */
  readonly textCount: number
  /** In the context before. */
  readonly depth: number
  /** At once. */
  readonly parallel: number
}

export interface SettingChoices {
  readonly paths: ReadonlyArray<string>
  readonly gpuLayers: ReadonlyArray<number>
  readonly splitModes: ReadonlyArray<"layer" | "tensor">
  readonly wires: ReadonlyArray<"f32" | "bf16">
  readonly tensorSplits: ReadonlyArray<ReadonlyArray<number>> | undefined
  readonly batchSize: ReadonlyArray<number>
  readonly ubatchSize: ReadonlyArray<number> | undefined
  readonly typeK: ReadonlyArray<KvTypeName>
  readonly typeV: ReadonlyArray<KvTypeName>
  readonly flashAttention: ReadonlyArray<"on" | "off" | "auto">
  readonly threads: ReadonlyArray<number>
}

export interface TestChoices {
  readonly nPrompt: ReadonlyArray<number>
  readonly nGen: ReadonlyArray<number>
  readonly promptAndText:
    | ReadonlyArray<{ readonly prompt: number; readonly text: number }>
    | undefined
  readonly depth: ReadonlyArray<number>
  readonly parallel: ReadonlyArray<number>
}

/** One a combination, in llama-bench's order (llama.cpp v0.5.0 `get_cmd_params_instances`), and what it has not last. */
export const settingsOf = (choices: SettingChoices): ReadonlyArray<BenchSetting> => {
  const product = <A, B>(all: ReadonlyArray<A>, more: ReadonlyArray<B>): ReadonlyArray<A & B> =>
    all.flatMap((one) => more.map((other) => ({ ...one, ...other })))
  const each = <K extends string, V>(key: K, values: ReadonlyArray<V>) =>
    values.map((value) => ({ [key]: value }) as { readonly [P in K]: V })
  const onDevices = product(
    product(
      product(each("path", choices.paths), each("gpuLayers", choices.gpuLayers)),
      each("splitMode", choices.splitModes),
    ),
    each("tensorSplit", choices.tensorSplits ?? [undefined]),
  )
  const batches = product(
    each("batchSize", choices.batchSize),
    each("ubatchSize", choices.ubatchSize ?? [undefined]),
  )
  const caches = product(
    product(each("typeK", choices.typeK), each("typeV", choices.typeV)),
    product(each("flashAttention", choices.flashAttention), each("threads", choices.threads)),
  )
  return product(product(product(onDevices, batches), caches), each("wire", choices.wires))
}

/** Prompts, then texts, then both as one; of each, so many at once as were asked for. */
export const testsOf = (choices: TestChoices): ReadonlyArray<BenchTest> =>
  choices.depth.flatMap((depth) =>
    [
      ...choices.nPrompt.map((promptCount) => ({ promptCount, textCount: 0 })),
      ...choices.nGen.map((textCount) => ({ promptCount: 0, textCount })),
      ...(choices.promptAndText ?? []).map(({ prompt, text }) => ({
        promptCount: prompt,
        textCount: text,
      })),
    ]
      .filter(({ promptCount, textCount }) => promptCount + textCount > 0)
      .flatMap((counts) => choices.parallel.map((parallel) => ({ ...counts, depth, parallel }))),
  )

/** As llama-bench calls them: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`. */
export const nameOfTest = ({ promptCount, textCount, depth }: BenchTest): string => {
  const parts = [
    ...(promptCount > 0 ? [`pp${promptCount}`] : []),
    ...(textCount > 0 ? [`tg${textCount}`] : []),
  ]
  return `${parts.join("+")}${depth > 0 ? ` @ d${depth}` : ""}`
}

/** Tokens that are timed, of all texts together. */
export const tokenCountOf = ({ promptCount, textCount, parallel }: BenchTest): number =>
  (promptCount + textCount) * parallel

/** Tokens of context for all texts of a test. */
export const contextSizeFor = ({ promptCount, textCount, depth, parallel }: BenchTest): number =>
  // A text without a prompt begins with a token, and no context is ever full.
  parallel * (depth + promptCount + textCount + 1) + 1
