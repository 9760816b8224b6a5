/** What `bench` measures. Names and defaults are llama-bench's (llama.cpp v0.5.0, tools/llama-bench). */
import { UsageError } from "../UsageError.ts"
import { splitModeNames, wireNames } from "./cluster.ts"
import { flag, toggle } from "./Flag.ts"
import {
  choice,
  files,
  integer,
  integerOr,
  type Kind,
  number,
  numbers,
  ranges,
  several,
} from "./kinds.ts"
import { kvTypeNames, modelGroup, modelRivals } from "./model.ts"

const tests = "Tests"
const MAX_I32 = 2 ** 31 - 1
const counts = ranges({ min: 0, max: MAX_I32 })
const sizes = ranges({ min: 1, max: MAX_I32 })

/** `512,128`: one pair each time. */
const promptAndText: Kind<ReadonlyArray<{ readonly prompt: number; readonly text: number }>> = {
  value: "PP,TG",
  isList: true,
  read: (texts, source) =>
    texts.map((given) => {
      const pair = /^\s*(\d{1,9})\s*,\s*(\d{1,9})\s*$/.exec(given)
      if (pair !== null) return { prompt: Number(pair[1]), text: Number(pair[2]) }
      throw new UsageError(
        `${source} takes tokens of a prompt and of its text, such as 512,128, not '${given}'`,
      )
    }),
}

const shares: Kind<ReadonlyArray<ReadonlyArray<number>>> = {
  ...several(numbers("X/Y/…", { min: 0 }, { isInteger: false, separator: /\// })),
  value: "X/Y/…,…",
}

export const benchTestFlags = {
  nPrompt: flag({
    name: "n-prompt",
    aliases: ["-p"],
    kind: counts,
    about: "tokens of prompts; 0: none",
    default: "512",
    group: tests,
  }),
  nGen: flag({
    name: "n-gen",
    aliases: ["-n"],
    kind: counts,
    about: "tokens to generate; 0: none",
    default: "128",
    group: tests,
  }),
  promptAndText: flag({
    name: "prompt-gen",
    aliases: ["-pg"],
    kind: promptAndText,
    about: "a prompt and the text that follows it, as one; repeatable",
    unset: "none",
    group: tests,
  }),
  depth: flag({
    name: "n-depth",
    aliases: ["-d"],
    kind: counts,
    about: "tokens that the context holds before, which are not timed",
    default: "0",
    group: tests,
  }),
  parallel: flag({
    name: "parallel",
    aliases: ["-np", "-npl"],
    kind: ranges({ min: 1, max: 256 }),
    about: "texts at once; tokens/s are those of all of them together",
    default: "1",
    group: tests,
  }),
  repetitions: flag({
    name: "repetitions",
    aliases: ["-r"],
    kind: integer({ min: 1, max: 100_000 }),
    about: "how often each test is timed",
    default: "5",
    group: tests,
  }),
  delay: flag({
    name: "delay",
    kind: number({ min: 0, max: 86_400 }),
    about: "seconds to wait before each test",
    default: "0",
    group: tests,
  }),
  warmup: toggle({
    name: "warmup",
    negations: ["--no-warmup"],
    default: "on",
    about: "whether a test runs once before it is timed (default: it does)",
    group: tests,
  }),
  output: flag({
    name: "output",
    aliases: ["-o"],
    kind: choice(["md", "json", "jsonl", "csv"]),
    about: "how results are printed: md, json, jsonl or csv",
    unset: "md; on a terminal that is too narrow for it, lines",
    group: "Output",
  }),
}

/** What a model is loaded and computed with: a measurement for each combination. */
export const benchSettingFlags = {
  models: flag({
    name: "model",
    rivals: modelRivals,
    aliases: ["-m"],
    env: "LLAMA_ARG_MODEL",
    kind: files,
    about: "GGUF files; may also be given without -m",
    group: modelGroup,
  }),
  batchSize: flag({
    name: "batch-size",
    aliases: ["-b"],
    kind: sizes,
    about: "most tokens of one prompt batch",
    default: "2048",
    group: modelGroup,
  }),
  ubatchSize: flag({
    name: "ubatch-size",
    aliases: ["-ub"],
    kind: sizes,
    about: "most tokens computed at once",
    unset: "512; 128 over several servers",
    group: modelGroup,
  }),
  flashAttention: flag({
    name: "flash-attn",
    aliases: ["-fa"],
    kind: several(choice(["on", "off", "auto"], { "1": "on", "0": "off", "-1": "auto" })),
    about: "Flash Attention",
    default: "auto",
    group: modelGroup,
  }),
  typeK: flag({
    name: "cache-type-k",
    aliases: ["-ctk"],
    kind: several(choice(kvTypeNames)),
    about: `types of the K cache: ${kvTypeNames.join(", ")}`,
    default: "f16",
    group: modelGroup,
  }),
  typeV: flag({
    name: "cache-type-v",
    aliases: ["-ctv"],
    kind: several(choice(kvTypeNames)),
    about: "types of the V cache, the same names",
    default: "f16",
    group: modelGroup,
  }),
  splitModes: flag({
    name: "split-mode",
    aliases: ["-sm"],
    kind: several(choice(splitModeNames, { none: "layer" })),
    about: "layer: devices get whole layers; tensor: each gets a part of every tensor",
    default: "layer",
    group: "Servers and devices",
  }),
  wires: flag({
    name: "wire",
    kind: several(choice(wireNames)),
    about: "how activations cross between hosts: f32, or rounded to bf16, half the bytes",
    default: "f32",
    group: "Servers and devices",
  }),
  tensorSplits: flag({
    name: "tensor-split",
    aliases: ["-ts"],
    kind: shares,
    about: "shares of the layers, or of each tensor, for each device, such as 1/1,3/1",
    unset: "of layers by free memory, of tensors by how fast servers multiply",
    group: "Servers and devices",
  }),
  gpuLayers: flag({
    name: "gpu-layers",
    aliases: ["-ngl", "--n-gpu-layers"],
    kind: several(integerOr({ min: 0, max: MAX_I32 }, { auto: -1, all: MAX_I32, "-1": -1 })),
    about: "layers to put on devices, the rest stays on this CPU",
    default: "auto",
    group: "Servers and devices",
  }),
  threads: flag({
    name: "threads",
    aliases: ["-t"],
    kind: ranges({ min: 1, max: 512 }),
    about: "threads of this machine's CPU",
    unset: "one per core",
    group: "Servers and devices",
  }),
}
