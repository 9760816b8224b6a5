/**
 * The commands, and which flags each of them takes. No import costs anything here, so that `--help` is there at once.
 */

import { apiServerFlags } from "./api.ts"
import { benchSettingFlags, benchTestFlags } from "./bench.ts"
import { chatFlags, conversationFlags, templateFlags } from "./chat.ts"
import { accessFlags, clusterFlags, json, rpc, timeout } from "./cluster.ts"
import { embeddingFlags } from "./embed.ts"
import { type Flags, type FlagValues, flag, toggle } from "./Flag.ts"
import { generationFlags, oneTextFlags, promptFlags } from "./generation.ts"
import {
  type IgnoredFlag,
  ignoredByApi,
  ignoredByBench,
  ignoredByLoading,
  ignoredByRun,
} from "./ignored.ts"
import { number, numbers, path, size } from "./kinds.ts"
import { contextFlags, modelFile, modelGroup, modelRivals, nameFlags } from "./model.ts"
import { serveFlags } from "./serve.ts"
import { speculationFlags } from "./speculation.ts"

const output = "Output"

const tokens = flag({
  name: "tokens",
  kind: numbers(
    "ID,…",
    { min: 0, max: 2 ** 31 - 1 },
    { isInteger: true, separator: /\s*,\s*|\s+/ },
  ),
  about: "token ids to evaluate, such as 1,2,3",
  unset: "32 ids spread over the vocabulary",
  group: modelGroup,
})

const perf = toggle({
  name: "perf",
  negations: ["--no-perf"],
  env: "LLAMA_ARG_PERF",
  default: "on",
  about: "whether timings and memory are told behind the text (default: they are)",
  group: output,
})

export const planFlags = {
  model: modelFile,
  ...nameFlags,
  ...clusterFlags,
  ...contextFlags,
  ...speculationFlags,
  json,
}

export const runFlags = {
  model: modelFile,
  ...nameFlags,
  ...promptFlags,
  ...conversationFlags,
  ...oneTextFlags,
  ...generationFlags,
  ...speculationFlags,
  ...clusterFlags,
  ...contextFlags,
  perf,
  json: { ...json, about: "print events on stdout, one JSON object a line" },
}

export const chatCommandFlags = {
  model: modelFile,
  ...nameFlags,
  prompt: { ...promptFlags.prompt, about: "the first message" },
  file: { ...promptFlags.file, about: "read the first message from a file" },
  escape: promptFlags.escape,
  reversePrompt: promptFlags.reversePrompt,
  ...chatFlags,
  ...generationFlags,
  ...speculationFlags,
  ...clusterFlags,
  ...contextFlags,
  perf,
}

export const verifyFlags = {
  rpc,
  remoteBuild: clusterFlags.remoteBuild,
  ...accessFlags,
  timeout,
  device: clusterFlags.device,
  splitMode: clusterFlags.splitMode,
  wire: {
    ...clusterFlags.wire,
    about:
      "bf16: each model is computed once more with activations that cross between hosts as bf16, as 'run --wire bf16' computes it, and a line of its own says how far that is from F32",
  },
  tensorSplit: clusterFlags.tensorSplit,
  gpuLayers: clusterFlags.gpuLayers,
  threads: clusterFlags.threads,
  model: { ...modelFile, about: "a GGUF file; more may be given without -m" },
  ...nameFlags,
  tokens,
  // llama.cpp's own tests allow it between backends (v0.5.0, tests/test-llama-archs.cpp); wrong results are far beyond it.
  tolerance: flag({
    name: "tolerance",
    kind: number({ min: 0 }),
    about: "largest normalized mean squared error that passes",
    default: "1e-4",
    group: modelGroup,
  }),
  json: { ...json, about: "print one JSON object a file on stdout" },
}

export const benchFlags = {
  ...benchTestFlags,
  rpc,
  ...accessFlags,
  timeout,
  remoteBuild: clusterFlags.remoteBuild,
  device: clusterFlags.device,
  listDevices: clusterFlags.listDevices,
  ...benchSettingFlags,
  ...nameFlags,
}

export const devicesFlags = { rpc, ...accessFlags, json }

export const statusFlags = {
  rpc: { ...rpc, about: "servers to look at, such as 10.0.0.2:50052,[fd00::3]:50052" },
  ...accessFlags,
  watch: toggle({
    name: "watch",
    about: "look again every 2 s, until Ctrl-C; where this is no terminal, a line a server",
    group: output,
  }),
  json: { ...json, about: "print JSON on stdout, with --watch an object a line" },
}

export const cacheFlags = {
  keep: flag({
    name: "keep",
    kind: size,
    about: "prune: remove least recently used files until at most this is left; 0 removes all",
    group: "Cache",
  }),
  remove: toggle({
    name: "remove",
    about: "verify: remove what is damaged",
    group: "Cache",
  }),
  json,
}

export const embedFlags = {
  model: modelFile,
  ...nameFlags,
  prompt: { ...promptFlags.prompt, about: "the texts, with line breaks between" },
  file: { ...promptFlags.file, about: "read them from a file, '-' for stdin" },
  escape: promptFlags.escape,
  ...embeddingFlags,
  ...clusterFlags,
  ...contextFlags,
}

export const apiFlags = {
  model: modelFile,
  ...nameFlags,
  ...apiServerFlags,
  ...templateFlags,
  ...generationFlags,
  ...speculationFlags,
  ...clusterFlags,
  ...contextFlags,
}

export const serviceFlags = {
  yes: toggle({
    name: "yes",
    aliases: ["-y"],
    about: "install: write the file and start the service without asking",
    group: "Service",
  }),
  ...serveFlags,
}

export const pullFlags = {
  ...nameFlags,
  json: { ...json, about: "print events on stdout, one JSON object a line" },
}

export const lsFlags = { json }

export const rmFlags = { json }

export const demoFlags = {
  save: flag({
    name: "save",
    kind: path,
    about: "keep the demo model in this file",
    group: "Demo",
  }),
}

/** A command as the command line knows it. */
export interface CommandSpec {
  readonly about: string
  readonly flags: Flags
  /** Flags of llama.cpp that it takes and that change nothing. */
  readonly ignored?: ReadonlyArray<IgnoredFlag>
  /** What may stand besides the flags. */
  readonly positional?: Positional
  /** Further paragraphs of its help. */
  readonly notes?: ReadonlyArray<string>
  readonly examples: ReadonlyArray<string>
}

export interface Positional {
  /** The name that the command's code has for the words, which are a list always. */
  readonly key: string
  /** What stands for them in the help. */
  readonly name: string
  readonly isRepeated: boolean
  /** The words that there are, or that they are paths of files: for completion. */
  readonly choices?: ReadonlyArray<string>
  readonly isPath?: boolean
  /** As `Flag.rivals`. */
  readonly rivals?: string
}

const hubNotes = [
  "Models come from huggingface.co, or the hub that MODEL_ENDPOINT or HF_ENDPOINT names. They lie where llama.cpp and Hugging Face's programs keep theirs: $LLAMA_CACHE, $HF_HUB_CACHE, $HF_HOME/hub or ~/.cache/huggingface/hub; by URL in $LLAMA_CACHE or ~/.cache/llama.cpp. A download that was stopped goes on where it was.",
]

const models = {
  key: "files",
  name: "model.gguf",
  isPath: true,
  rivals: modelRivals,
} as const
/** One of some words. */
const oneOf = <const K extends string>(key: K, choices: ReadonlyArray<string>) => ({
  key,
  name: choices.join("|"),
  isRepeated: false,
  choices,
})
const aModel = { ...models, isRepeated: false } as const
const modelNames = { key: "names", name: "user/repo[:quant]", isRepeated: true } as const

export const commands = {
  run: {
    about: "Run a model over servers and local devices",
    flags: runFlags,
    ignored: ignoredByRun,
    positional: aModel,
    notes: [
      "The generated text goes to stdout, everything else to stderr. Ctrl-C ends the generation.",
      "A model with a chat template is talked with, as by 'ggml-rpc chat': the prompt is the first message. -no-cnv has the model go on with the prompt as it is.",
    ],
    examples: [
      "ggml-rpc run --rpc 10.0.0.2:50052,10.0.0.3:50052 model.gguf -p 'Once upon'",
      "ggml-rpc run model.gguf -f prompt.txt --temp 0 > answer.txt",
      "ggml-rpc run -hf ggml-org/gemma-3-4b-it-GGUF --rpc 10.0.0.2:50052 -p Hello",
    ],
  },
  chat: {
    about: "Talk with a model over servers and local devices",
    flags: chatCommandFlags,
    ignored: ignoredByRun,
    positional: aModel,
    notes: [
      "/help lists what can be said besides messages. Ctrl-C stops an answer, and leaves where there is none; a line that ends with \\ goes on in the next one. Lines that were sent are in ~/.local/state/ggml-rpc/chat_history (or $XDG_STATE_HOME/ggml-rpc).",
      "Where stdin is no terminal, each of its lines is a message; the answers go to stdout, everything else to stderr.",
    ],
    examples: [
      "ggml-rpc chat --rpc 10.0.0.2:50052 -hf ggml-org/gemma-3-4b-it-GGUF",
      "ggml-rpc chat model.gguf -sys 'Be brief.' -st -p 'Why is the sky blue?'",
    ],
  },
  api: {
    about: "Serve a model over HTTP, as OpenAI, Anthropic, Ollama and llama-server do",
    flags: apiFlags,
    ignored: ignoredByApi,
    positional: aModel,
    notes: [
      "Sampling flags are for requests that do not say otherwise. docs/api.md lists the endpoints, and /openapi.json describes them.",
      "When the cluster loses a server, or the process that runs the model ends, so does the command, with exit code 1: have it started again by what started it.",
    ],
    examples: [
      "ggml-rpc api --rpc 10.0.0.2:50052 -hf ggml-org/gemma-3-4b-it-GGUF -np 8",
      "ggml-rpc api model.gguf --host 0.0.0.0 --api-key-file keys.txt",
    ],
  },
  embed: {
    about: "Turn texts into embeddings, over servers and local devices",
    flags: embedFlags,
    ignored: ignoredByLoading,
    positional: aModel,
    notes: ["The embeddings go to stdout, everything else to stderr."],
    examples: [
      "ggml-rpc embed -hf ggml-org/embeddinggemma-300M-GGUF -p 'a text'",
      "ggml-rpc embed model.gguf -f texts.txt --embd-output-format array",
    ],
  },
  bench: {
    about: "Measure a cluster's speed, as llama-bench does one machine's",
    flags: benchFlags,
    ignored: ignoredByBench,
    positional: { ...models, isRepeated: true },
    notes: [
      "Several values, with commas or each with its flag, make a row for every combination; whole numbers take ranges, such as 1-32*2. Tests are llama-bench's: pp is a prompt, tg a text, d tokens that the context holds before. With -np so many texts go through the slots at once, as in llama-batched-bench, and tokens/s are those of all together.",
      "Numbers of texts share a load with slots for the most of them, as there: what one text takes without other slots, '-np 1' measures by itself. A load does nothing for later loads that would go on beside the tests.",
      "A text's tokens are sampled, the likeliest each time, which llama-bench leaves out. Behind the rows stand each server's round trip and rates, and what a token sends, receives, writes and waits for.",
    ],
    examples: [
      "ggml-rpc bench --rpc 10.0.0.2:50052,10.0.0.3:50052 model.gguf",
      "ggml-rpc bench --rpc 10.0.0.2:50052 a.gguf b.gguf -p 512,2048 -np 1,8 -o csv",
    ],
  },
  serve: {
    about: "Offer this machine's devices to others",
    flags: serveFlags,
    notes: [
      "A client of llama.cpp hangs up when it is offered another version than its own, which it does not tell. It is offered the next older one each time it is started again, and what worked from then on, which is kept in ~/.local/state/ggml-rpc (or $XDG_STATE_HOME/ggml-rpc). --protocol and --listen settle it at once.",
      "GGML_RPC_DEBUG=1 logs every request. CUDA_VISIBLE_DEVICES and the like choose what is visible.",
      "Three levels. Open: whoever reaches the port from a private network (--allow: from elsewhere) uses it, clients of llama.cpp as well; for networks where you trust everybody.",
      "Token (--token-file): only clients of ggml-rpc with the same file. It is never sent, but what follows is readable and can be changed on the way.",
      "Token and TLS (--tls self, or --tls-cert and --tls-key): as well for networks that you do not trust.",
    ],
    examples: [
      "ggml-rpc serve --host 192.168.1.5 --port 50052 --cache",
      "ggml-rpc serve --listen 50053=7.0,50054=3.6",
    ],
  },
  devices: {
    about: "List local and remote devices with their free memory",
    flags: devicesFlags,
    examples: ["ggml-rpc devices --rpc 10.0.0.2:50052"],
  },
  status: {
    about: "Show how servers are: clients, memory, cache, load",
    flags: statusFlags,
    notes: [
      "Servers of ggml-rpc tell all of it; of llama.cpp's, and of older ones of ggml-rpc, version and memory are known. Exit code 1 when a server cannot be reached; with --watch it is shown instead.",
      "A look is a client of the server for a moment. One that serves as many as it may turns it away, and so does an rpc-server of llama.cpp that serves somebody.",
    ],
    examples: [
      "ggml-rpc status --rpc 10.0.0.2:50052,10.0.0.3:50052 --watch",
      "ggml-rpc status --rpc 10.0.0.2:50052 --json",
    ],
  },
  plan: {
    about: "Show how a model would be split, without loading it",
    flags: planFlags,
    ignored: ignoredByLoading,
    positional: aModel,
    notes: ["Of a model by name that is not on the disk only the header is fetched, a few MiB."],
    examples: [
      "ggml-rpc plan --rpc 10.0.0.2:50052 model.gguf -c 16384",
      "ggml-rpc plan --rpc 10.0.0.2:50052 -hf ggml-org/gpt-oss-120b-GGUF",
    ],
  },
  verify: {
    about: "Compare a cluster's results with this machine's CPU",
    flags: verifyFlags,
    ignored: ignoredByLoading,
    positional: { ...models, isRepeated: true },
    notes: [
      "The same tokens are evaluated on the local CPU and on the cluster. Different kinds of devices round differently; more than the tolerance means that something computes wrong. Exit code 1 when any model differs or fails.",
    ],
    examples: ["ggml-rpc verify --rpc 10.0.0.2:50052 model.gguf", "ggml-rpc verify *.gguf --json"],
  },
  pull: {
    about: "Download models by name, for later",
    flags: pullFlags,
    positional: { ...modelNames, rivals: modelRivals },
    notes: ["Prints the path of each model's first file.", ...hubNotes],
    examples: [
      "ggml-rpc pull ggml-org/gemma-3-4b-it-GGUF:Q8_0",
      "ggml-rpc pull -mu https://example.com/model.gguf",
    ],
  },
  ls: {
    about: "List the models that are on this machine's disk",
    flags: lsFlags,
    notes: hubNotes,
    examples: ["ggml-rpc ls"],
  },
  rm: {
    about: "Remove models from this machine's disk",
    flags: rmFlags,
    positional: modelNames,
    notes: [
      "Without a quantization all of the repository goes. A model by URL is named by its file, as 'ls' shows it. What a download that broke off has left goes as well.",
    ],
    examples: ["ggml-rpc rm ggml-org/gemma-3-4b-it-GGUF:Q8_0"],
  },
  cache: {
    about: "Look after the weights that 'serve --cache' keeps on this machine's disk",
    flags: cacheFlags,
    positional: oneOf("action", ["ls", "verify", "prune"]),
    notes: [
      "ls lists the files, verify reads all of them and says which are damaged (exit code 1), prune removes leftovers of writes that broke off and, with --keep, the least recently used files. The folder is llama.cpp's: $LLAMA_CACHE/rpc, or rpc in llama.cpp's cache folder. Servers may go on meanwhile.",
    ],
    examples: ["ggml-rpc cache ls", "ggml-rpc cache prune --keep 20G"],
  },
  service: {
    about: "Have 'serve' started and kept by this user's session",
    flags: serviceFlags,
    positional: oneOf("action", ["install", "remove"]),
    notes: [
      "install shows a systemd user unit (on macOS a launchd agent) for 'ggml-rpc serve' with the flags given here, asks, writes it and starts it; --yes does not ask, and without a terminal nothing is written unless it is given. remove stops it and removes the file. Relative paths in flags are read from the current folder.",
    ],
    examples: ["ggml-rpc service install --host 192.168.1.5 --cache", "ggml-rpc service remove"],
  },
  demo: {
    about: "Try it: two servers and a tiny model on this machine",
    flags: demoFlags,
    examples: ["ggml-rpc demo"],
  },
  completion: {
    about: "Print the script by which a shell completes commands and flags",
    flags: {},
    positional: oneOf("shell", ["bash", "zsh", "fish"]),
    examples: [
      'eval "$(ggml-rpc completion bash)"',
      "source <(ggml-rpc completion zsh)",
      "ggml-rpc completion fish | source",
    ],
  },
} as const satisfies Record<string, CommandSpec>

export type CommandName = keyof typeof commands

type Words<C> = C extends { readonly positional: { readonly key: infer K extends string } }
  ? { readonly [P in K]: ReadonlyArray<string> }
  : unknown

/** What a command's code is called with: the values of its flags, and the words besides them. */
export type CommandValues<C extends CommandName> = FlagValues<(typeof commands)[C]["flags"]> &
  Words<(typeof commands)[C]>

/** What every command takes. */
const commonFlags = {
  config: flag({
    name: "config",
    kind: path,
    about: "file with settings, JSON: values by the long names of flags",
    unset: "~/.config/ggml-rpc/config.json, if there is one",
    group: "Other",
  }),
  version: toggle({ name: "version", about: "the program's version", group: "Other" }),
  help: toggle({ name: "help", aliases: ["-h"], about: "this page", group: "Other" }),
}

export const flagsOf = (command: CommandName): Flags => ({
  ...commands[command].flags,
  ...commonFlags,
})
