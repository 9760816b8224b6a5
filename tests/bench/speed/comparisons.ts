/** What is compared: a model, the ways to run it, the tests, and the quotients that tell what somebody gains. */
import type { ModelName } from "../../models/models.ts"
import { ours, type SpeedTests, upstream, upstreamOnOurs, type Way } from "./ways.ts"

export type SpeedPart = "split" | "best" | "groups" | "prefill" | "repack" | "delay" | "traffic"

export const speedParts: readonly SpeedPart[] = [
  ...(["split", "best", "groups", "prefill", "repack", "delay", "traffic"] as const),
]

/** The fastest of some ways by the fastest of others. */
export interface Quotient {
  readonly title: string
  readonly of: readonly Way[]
  readonly by: readonly Way[]
  /** The column of the table of what somebody gains that it stands in; absent: it does not. */
  readonly gain?: Gain
}

/** What ours wins: by a second server, or against llama.cpp on as many. */
export type Gain = "second" | "reference"

export interface Comparison {
  readonly part: SpeedPart
  readonly title: string
  /** What is run, in the table of what somebody gains. */
  readonly what: string
  readonly model: ModelName
  readonly ways: readonly Way[]
  readonly tests: SpeedTests
  readonly quotients: readonly Quotient[]
  /** All processes on one core; else each server on a core of its own, the client where there is room. */
  readonly isOneCore: boolean
  /** Between client and servers, each way; 0: none. */
  readonly delayMs: number
}

export interface ComparisonOptions {
  readonly isQuick: boolean
}

const labels: Partial<Record<ModelName, string>> = {
  deep: "836 M parameters, Q8_0",
  deep_q4_0: "836 M parameters, Q4_0",
  deep_q4_k: "836 M parameters, Q4_K",
  middle: "246 M parameters, Q8_0",
  middle_q4_0: "246 M parameters, Q4_0",
  middle_q4_k: "246 M parameters, Q4_K",
  experts_q4_0: "4 of 16 experts, 243 MB, Q4_0",
  experts_q4_k: "4 of 16 experts, 243 MB, Q4_K",
  few_experts_q4_0: "4 of 16 experts, 64 MB, Q4_0",
}

const labelOf = (model: ModelName): string => labels[model] ?? model

const one = { ours: ours(1), upstream: upstream(1) } as const
const two = {
  ours: ours(2),
  oursCut: ours(2, "tensor"),
  upstream: upstream(2),
  upstreamCut: upstream(2, "tensor"),
} as const

export const comparisonsOf = (
  part: Exclude<SpeedPart, "traffic">,
  options: ComparisonOptions,
): readonly Comparison[] => makers[part](options)

const makers: Record<
  Exclude<SpeedPart, "traffic">,
  (options: ComparisonOptions) => readonly Comparison[]
> = {
  split: (options) => [
    overTwo("split", options.isQuick ? "q8_0" : "deep", {
      prompts: [options.isQuick ? 128 : 512],
      streams: options.isQuick ? [1, 8] : [1, 8, 32],
      textCount: options.isQuick ? 4 : 16,
      repeat: 2,
    }),
  ],
  best: (options) => [
    overTwo("best", options.isQuick ? "q4_0" : "deep_q4_0", {
      prompts: [options.isQuick ? 64 : 256],
      streams: [1, 8],
      textCount: options.isQuick ? 4 : 16,
      repeat: 2,
    }),
  ],
  groups: ({ isQuick }) => {
    const model = isQuick ? "q8_0" : "deep"
    return [
      {
        ...{ part: "groups", model, isOneCore: false, delayMs: 0 },
        title: `Many texts over layers on one and two servers: ${labelOf(model)}`,
        what: `${labelOf(model)}, layers`,
        ways: [one.ours, two.ours, one.upstream, two.upstream],
        tests: {
          ...{ prompts: [], streams: isQuick ? [2, 8] : [2, 8, 32] },
          textCount: isQuick ? 4 : 16,
          repeat: 2,
        },
        quotients: [
          { title: "ours: 2 ÷ 1", of: [two.ours], by: [one.ours], gain: "second" },
          { title: "llama.cpp: 2 ÷ 1", of: [two.upstream], by: [one.upstream] },
          {
            ...{ title: "over two: ours ÷ llama.cpp", gain: "reference" },
            ...{ of: [two.ours], by: [two.upstream] },
          },
        ],
      },
    ]
  },
  prefill: ({ isQuick }) => {
    const model = isQuick ? "q8_0" : "deep"
    const overTwoServers = [two.ours, two.oursCut]
    return [
      {
        ...{ part: "prefill", model, isOneCore: false, delayMs: 0 },
        title: `A long prompt: ${labelOf(model)}`,
        what: labelOf(model),
        ways: [one.ours, ...overTwoServers, one.upstream, two.upstream],
        // The short one makes the connections' and the memory's first use.
        tests: { prompts: isQuick ? [32, 256] : [64, 2048], streams: [], textCount: 0, repeat: 1 },
        quotients: [
          { title: "ours: best of 2 ÷ 1", of: overTwoServers, by: [one.ours], gain: "second" },
          { title: "layers: 2 ÷ 1", of: [two.ours], by: [one.ours] },
          {
            ...{ title: "over two: ours ÷ llama.cpp", gain: "reference" },
            ...{ of: overTwoServers, by: [two.upstream] },
          },
        ],
      },
    ]
  },
  repack: ({ isQuick }) => {
    const models: readonly ModelName[] = isQuick
      ? ["q4_0", "middle_q4_k", "few_experts_q4_0"]
      : ["deep_q4_0", "deep_q4_k", "experts_q4_0", "experts_q4_k"]
    const [own, onOurs] = [upstream(0), upstreamOnOurs(1)]
    return models.map((model) => ({
      ...{ part: "repack", model, isOneCore: true, delayMs: 0 },
      title: `One server against one's own process, all on one core: ${labelOf(model)}`,
      what: `${labelOf(model)}, one server, all on one core`,
      ways: [own, one.ours, onOurs, one.upstream],
      tests: {
        prompts: [isQuick ? 64 : 128],
        streams: [1, 8],
        textCount: isQuick ? 4 : 16,
        repeat: 2,
      },
      quotients: [
        { title: "ours ÷ own process", of: [one.ours], by: [own] },
        { title: "its client on ours ÷ own process", of: [onOurs], by: [own] },
        { title: "ours ÷ llama.cpp", of: [one.ours], by: [one.upstream], gain: "reference" },
      ],
    }))
  },
  delay: (options) =>
    (options.isQuick ? [1] : [0.2, 1, 5]).map((delayMs) => {
      const model = options.isQuick ? "q8_0" : "middle"
      const comparison = overTwo(
        "delay",
        model,
        { prompts: [], streams: options.isQuick ? [1] : [1, 8], textCount: 8, repeat: 2 },
        // For each sum it goes there and back several times.
        options.isQuick,
      )
      return {
        ...comparison,
        delayMs,
        title: `${delayMs} ms between client and servers, each way: ${labelOf(model)}`,
        what: `${labelOf(model)}, ${delayMs} ms each way`,
      }
    }),
}

/** One and two servers, layers and tensors split, both sides. */
const overTwo = (
  part: SpeedPart,
  model: ModelName,
  tests: SpeedTests,
  leavesOutSlow = false,
): Comparison => {
  const oursOverTwo = [two.ours, two.oursCut]
  const upstreamOverTwo = [two.upstream, ...(leavesOutSlow ? [] : [two.upstreamCut])]
  return {
    ...{ part, model, tests, isOneCore: false, delayMs: 0 },
    title: `One and two servers: ${labelOf(model)}`,
    what: labelOf(model),
    ways: [one.ours, ...oursOverTwo, one.upstream, ...upstreamOverTwo],
    quotients: [
      { title: "ours: tensors cut over 2 ÷ 1", of: [two.oursCut], by: [one.ours] },
      { title: "ours: best of 2 ÷ 1", of: oursOverTwo, by: [one.ours], gain: "second" },
      {
        ...{ title: "over two: best of ours ÷ best of llama.cpp", gain: "reference" },
        ...{ of: oursOverTwo, by: upstreamOverTwo },
      },
    ],
  }
}

/** Whose traffic is told, over one and two servers. */
export const trafficWays: readonly Way[] = [one, two].flatMap((ways) => Object.values(ways))
