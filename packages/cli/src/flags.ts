/**
 * Every flag of every command, defined once: argv.ts reads them, help.ts prints them, app.ts makes
 * @effect/cli options of them. No import costs anything here, so that `--help` is there at once.
 *
 * Names are llama-cli's and rpc-server's (llama.cpp v0.5.0, common/arg.cpp, tools/rpc/rpc-server.cpp).
 * One table of all flags, so that help, parsing and documents cannot differ: longer than other files for that.
 */
import type { KvTypeName } from "@ggml-rpc/native"
import {
  choice,
  type Flag,
  integer,
  names,
  nonEmpty,
  number,
  numberIn,
  numbers,
  size,
  text,
  toggle,
} from "./flagKinds.ts"
import { generation, samplingFlags } from "./samplingFlags.ts"

export type { Flag, FlagValue, FlagValues } from "./flagKinds.ts"

/** All of a model's layers, whatever their number. */
const ALL_LAYERS = 1_000_000

const cluster = "Servers and devices"
const model = "Model and context"
const promptGroup = "Prompt"
const output = "Output"
const onOffAuto = ["on", "off", "auto"] as const

/** Names as in native's `kvTypes`. */
export const kvTypeNames = [
  "f32",
  "f16",
  "bf16",
  "q8_0",
  "q4_0",
  "q4_1",
  "iq4_nl",
  "q5_0",
  "q5_1",
] as const satisfies ReadonlyArray<KvTypeName>

const json = toggle({
  name: "json",
  aliases: [],
  about: "print JSON on stdout, for programs",
  group: output,
})

const rpc = text({
  name: "rpc",
  aliases: [],
  value: "A:PORT,…",
  isList: true,
  about:
    "servers to use, such as 10.0.0.2:50052,[fd00::3]:50052; 'none', or no --rpc: this machine alone",
  group: cluster,
})

const tokenFile = nonEmpty({
  name: "token-file",
  aliases: [],
  value: "FILE",
  about: "file with the secret of servers that ask for one; it is shown to them, and not told",
  group: cluster,
})

/** How servers are known, and how they know this client. */
const accessFlags = {
  tokenFile,
  tlsFingerprint: names({
    name: "tls-fingerprint",
    aliases: [],
    value: "HEX,…",
    about: "speak TLS, to servers whose certificate has one of these, as 'serve --tls' prints them",
    group: cluster,
  }),
  tlsCa: nonEmpty({
    name: "tls-ca",
    aliases: [],
    value: "FILE",
    about: "speak TLS, to servers with a certificate of this authority (PEM)",
    group: cluster,
  }),
}

const clusterFlags = {
  rpc,
  ...accessFlags,
  remoteBuild: text({
    name: "remote-build",
    aliases: [],
    value: "A:PORT=OPS,…",
    isList: true,
    about:
      "operations of an older server's ggml, such as 10.0.0.2:50052=95; only needed where a warning asks for it",
    group: cluster,
  }),
  device: names({
    name: "device",
    aliases: ["-dev"],
    value: "NAME,…",
    about: "local devices to use besides the CPU; 'none' for none (default: every GPU)",
    group: cluster,
  }),
  tensorSplit: numbers(
    {
      name: "tensor-split",
      aliases: ["-ts"],
      value: "X,Y,…",
      about: "share of the layers for each device, as listed by 'plan' (default: by free memory)",
      group: cluster,
    },
    { min: 0 },
    { isInteger: false, separator: /[,/]/ },
  ),
  gpuLayers: {
    name: "gpu-layers",
    aliases: ["-ngl", "--n-gpu-layers"],
    value: "N|auto|all",
    about: "layers to put on devices, the rest stays on this CPU (default: auto, all that fit)",
    group: cluster,
    parse: (given) =>
      given === "auto" || given === "-1"
        ? undefined
        : given === "all"
          ? ALL_LAYERS
          : numberIn("gpu-layers", given, { min: 0 }, true),
  } satisfies Flag<number | undefined> as Flag<number | undefined>,
  threads: integer(
    {
      name: "threads",
      aliases: ["-t"],
      about: "threads of this machine's CPU (default: one per core)",
      group: cluster,
    },
    { min: 1, max: 512 },
  ),
}

const contextFlags = {
  contextSize: integer(
    {
      name: "ctx-size",
      aliases: ["-c"],
      about:
        "tokens of context, rounded up to a multiple of 256; 0: all the model was trained with (default: that, or what fits in memory)",
      group: model,
    },
    { min: 0, max: 2 ** 31 - 1 },
  ),
  batchSize: integer(
    {
      name: "batch-size",
      aliases: ["-b"],
      about: "most tokens of one prompt batch (default: 2048)",
      group: model,
    },
    { min: 1, max: 2 ** 31 - 1 },
  ),
  ubatchSize: integer(
    {
      name: "ubatch-size",
      aliases: ["-ub"],
      about: "most tokens computed at once (default: 512)",
      group: model,
    },
    { min: 1, max: 2 ** 31 - 1 },
  ),
  flashAttention: {
    ...choice(
      {
        name: "flash-attn",
        aliases: ["-fa"],
        about: "Flash Attention; alone it means on (default: auto)",
        group: model,
      },
      onOffAuto,
      // llama.cpp v0.5.0 common/arg.cpp is_truthy, is_falsey, is_autoy
      { enabled: "on", true: "on", 1: "on", disabled: "off", false: "off", 0: "off", "-1": "auto" },
    ),
    impliedValues: ["on", "off", "auto", "enabled", "disabled", "true", "false", "1", "0", "-1"],
  },
  typeK: choice(
    {
      name: "cache-type-k",
      aliases: ["-ctk"],
      about: `type of the K cache: ${kvTypeNames.join(", ")} (default: f16)`,
      group: model,
    },
    kvTypeNames,
  ),
  typeV: choice(
    {
      name: "cache-type-v",
      aliases: ["-ctv"],
      about: "type of the V cache, the same names (default: f16)",
      group: model,
    },
    kvTypeNames,
  ),
  noMmap: toggle({
    name: "no-mmap",
    aliases: [],
    about: "read the model file instead of mapping it",
    group: model,
  }),
}

const modelFile = nonEmpty({
  name: "model",
  aliases: ["-m"],
  value: "FILE",
  about: "the GGUF file; may also be given without -m",
  group: model,
})

/** Models by name, as llama-cli takes them. */
const nameFlags = {
  hfRepo: nonEmpty({
    name: "hf-repo",
    aliases: ["-hf", "-hfr"],
    value: "USER/REPO[:QUANT]",
    about:
      "a model of Hugging Face, downloaded once; without a quantization Q4_K_M, else Q8_0, else the first",
    group: model,
  }),
  hfFile: nonEmpty({
    name: "hf-file",
    aliases: ["-hff"],
    value: "FILE",
    about: "this file of the repository, instead of a quantization",
    group: model,
  }),
  modelUrl: nonEmpty({
    name: "model-url",
    aliases: ["-mu"],
    value: "URL",
    about: "a model by its URL, downloaded once; with -m to that file",
    group: model,
  }),
  hfToken: nonEmpty({
    name: "hf-token",
    aliases: ["-hft"],
    value: "TOKEN",
    about: "token for gated and private models (default: what HF_TOKEN holds)",
    group: model,
  }),
  offline: toggle({
    name: "offline",
    aliases: [],
    about: "use models that are on the disk, and ask no server for others",
    group: model,
  }),
}

const tokens = numbers(
  {
    name: "tokens",
    aliases: [],
    value: "ID,…",
    about: "token ids to evaluate, such as 1,2,3 (default: 32 ids spread over the vocabulary)",
    group: model,
  },
  { min: 0, max: 2 ** 31 - 1 },
  { isInteger: true, separator: /\s*,\s*|\s+/ },
)

export const planFlags = { model: modelFile, ...nameFlags, ...clusterFlags, ...contextFlags, json }

export const runFlags = {
  model: modelFile,
  ...nameFlags,
  prompt: text({
    name: "prompt",
    aliases: ["-p"],
    value: "TEXT",
    about: "the text to continue",
    group: promptGroup,
  }),
  file: nonEmpty({
    name: "file",
    aliases: ["-f"],
    value: "FILE",
    about: "read the prompt from a file, '-' for stdin (the default when it is piped)",
    group: promptGroup,
  }),
  escape: toggle({
    name: "escape",
    aliases: ["-e"],
    about: "turn \\n, \\t, \\x41 … in the prompt into what they mean (the default)",
    group: promptGroup,
  }),
  noEscape: toggle({
    name: "no-escape",
    aliases: [],
    about: "take backslashes in the prompt literally",
    group: promptGroup,
  }),
  predict: integer(
    {
      name: "predict",
      aliases: ["-n", "--n-predict"],
      about: "most tokens to generate; -1: until the text ends or the context is full (default)",
      group: generation,
    },
    { min: -2, max: 2 ** 31 - 1 },
  ),
  ...samplingFlags,
  ...clusterFlags,
  ...contextFlags,
  json: { ...json, about: "print events on stdout, one JSON object a line" },
}

export const verifyFlags = {
  rpc,
  remoteBuild: clusterFlags.remoteBuild,
  ...accessFlags,
  device: clusterFlags.device,
  tensorSplit: clusterFlags.tensorSplit,
  gpuLayers: clusterFlags.gpuLayers,
  threads: clusterFlags.threads,
  model: { ...modelFile, about: "a GGUF file; more may be given without -m" },
  ...nameFlags,
  tokens,
  tolerance: number(
    {
      name: "tolerance",
      aliases: [],
      about: "largest normalized mean squared error that passes (default: 1e-4)",
      group: model,
    },
    { min: 0 },
  ),
  json: { ...json, about: "print one JSON object a file on stdout" },
}

export const devicesFlags = { rpc, ...accessFlags, json }

export const statusFlags = {
  rpc: { ...rpc, about: "servers to look at, such as 10.0.0.2:50052,[fd00::3]:50052" },
  ...accessFlags,
  watch: toggle({
    name: "watch",
    aliases: [],
    about: "look again every 2 s, until Ctrl-C; where this is no terminal, a line a server",
    group: output,
  }),
  json: { ...json, about: "print JSON on stdout, with --watch an object a line" },
}

export const serveFlags = {
  host: nonEmpty({
    name: "host",
    aliases: ["-H"],
    value: "HOST",
    about: "address to listen on; 0.0.0.0 or :: for all (default: 127.0.0.1)",
    group: "Network",
  }),
  port: integer(
    {
      name: "port",
      aliases: ["-p"],
      about: "port to listen on; 0 picks a free one (default: 50052)",
      group: "Network",
    },
    { min: 0, max: 65535 },
  ),
  allow: names(
    {
      name: "allow",
      aliases: [],
      value: "CIDR,…",
      about:
        "whose connections are taken, such as 192.168.1.0/24,fd00::/8 (default: private networks; 0.0.0.0/0,::/0 for all)",
      group: "Network",
    },
    /,/,
  ),
  tokenFile: nonEmpty({
    name: "token-file",
    aliases: [],
    value: "FILE",
    about: "serve only clients with the secret in this file; those of llama.cpp have none",
    group: "Network",
  }),
  tls: choice(
    {
      name: "tls",
      aliases: [],
      about:
        "'self': encrypt, with a certificate that is made once and kept; its fingerprint is printed, for --tls-fingerprint of clients",
      group: "Network",
    },
    ["self"],
  ),
  tlsCert: nonEmpty({
    name: "tls-cert",
    aliases: [],
    value: "FILE",
    about: "encrypt, with this certificate (PEM)",
    group: "Network",
  }),
  tlsKey: nonEmpty({
    name: "tls-key",
    aliases: [],
    value: "FILE",
    about: "its key (PEM)",
    group: "Network",
  }),
  protocol: nonEmpty({
    name: "protocol",
    aliases: [],
    value: "X.Y",
    about: "speak this version of the protocol only (default: auto, what suits each client)",
    group: "Network",
  }),
  listen: names({
    name: "listen",
    aliases: [],
    value: "PORT=X.Y,…",
    about: "more ports, each for one version of the protocol; port 0 picks a free one",
    group: "Network",
  }),
  maxClients: integer(
    {
      name: "max-clients",
      aliases: ["--max-sessions"],
      about: "clients served at the same time; more are turned away (default: 64)",
      group: "Network",
    },
    { min: 1, max: 4096 },
  ),
  maxComputeSeconds: number(
    {
      name: "max-compute-seconds",
      aliases: [],
      about: "end the session of a client whose graph runs longer (default: never)",
      group: "Network",
    },
    { min: 0.1 },
  ),
  idleTimeout: number(
    {
      name: "idle-timeout",
      aliases: [],
      about: "end the session of a client that is silent for so many seconds (default: never)",
      group: "Network",
    },
    { min: 0.1 },
  ),
  maxGraphNodes: integer(
    {
      name: "max-graph-nodes",
      aliases: [],
      about: "refuse graphs of more nodes (default: 1048576)",
      group: "Network",
    },
    { min: 1 },
  ),
  noAddressLimits: toggle({
    name: "no-address-limits",
    aliases: [],
    about:
      "do not slow down an address whose clients start many sessions or send bad requests, as where it is a proxy's",
    group: "Network",
  }),
  allowComm: toggle({
    name: "allow-comm",
    aliases: [],
    about:
      "link with another server where a client asks (llama.cpp's -sm tensor): listens beside the client's connection, or dials whom it names",
    group: "Network",
  }),
  noSandbox: toggle({
    name: "no-sandbox",
    aliases: [],
    about:
      "let session processes keep programs, files and sockets, for a debugger; by default they give up what serving a client does not take",
    group: "Network",
  }),
  device: names({
    name: "device",
    aliases: ["-d", "-dev"],
    value: "NAME,…",
    about: "devices to serve (default: every accelerator, or the CPU when there is none)",
    group: "Devices",
  }),
  threads: integer(
    {
      name: "threads",
      aliases: ["-t"],
      about: "threads of the CPU device (default: half of the cores)",
      group: "Devices",
    },
    { min: 1, max: 512 },
  ),
  memLimit: size({
    name: "mem-limit",
    aliases: [],
    about: "memory that clients may have, all together (default: what is free)",
    group: "Devices",
  }),
  clientMemLimit: size({
    name: "client-mem-limit",
    aliases: [],
    about: "memory that each client may have (default: what is free)",
    group: "Devices",
  }),
  cache: toggle({
    name: "cache",
    aliases: ["-c"],
    about: "keep weights on disk, so that the next upload need not cross the network",
    group: "Cache",
  }),
  allowTraining: toggle({
    name: "allow-training",
    aliases: [],
    about: "run operations that only training uses: gradients, losses, optimizers",
    group: "Devices",
  }),
  cacheSize: size({
    name: "cache-size",
    aliases: [],
    about:
      "how large the cache may get; least recently used weights go (default: a tenth of the free disk)",
    group: "Cache",
  }),
  metrics: nonEmpty({
    name: "metrics",
    aliases: [],
    value: "[HOST:]PORT",
    about:
      "serve /metrics (Prometheus) and /healthz by HTTP there; a port alone is for this machine",
    group: "Log",
  }),
  logFormat: choice(
    {
      name: "log-format",
      aliases: [],
      about: "how the log on stderr looks: for people, or a JSON object a line (default: pretty)",
      group: "Log",
    },
    ["pretty", "json"],
  ),
  logLevel: choice(
    {
      name: "log-level",
      aliases: [],
      about: "least level of what is logged: debug, info, warning or error (default: info)",
      group: "Log",
    },
    ["debug", "info", "warning", "error"],
  ),
}

export const cacheFlags = {
  keep: size({
    name: "keep",
    aliases: [],
    about: "prune: remove least recently used files until at most this is left; 0 removes all",
    group: "Cache",
  }),
  remove: toggle({
    name: "remove",
    aliases: [],
    about: "verify: remove what is damaged",
    group: "Cache",
  }),
  json,
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
  save: nonEmpty({
    name: "save",
    aliases: [],
    value: "FILE",
    about: "keep the demo model in this file",
    group: "Demo",
  }),
}

/** A command as the command line knows it. */
export interface CommandSpec {
  readonly about: string
  readonly flags: Readonly<Record<string, Flag<unknown>>>
  /** What may stand besides the flags. */
  readonly positional?: { readonly name: string; readonly isRepeated: boolean }
  /** Further paragraphs of its help. */
  readonly notes?: ReadonlyArray<string>
  readonly examples: ReadonlyArray<string>
}

const hubNotes = [
  "Models come from huggingface.co, or the hub that MODEL_ENDPOINT or HF_ENDPOINT names. They lie where llama.cpp and Hugging Face's programs keep theirs: $LLAMA_CACHE, $HF_HUB_CACHE, $HF_HOME/hub or ~/.cache/huggingface/hub; by URL in $LLAMA_CACHE or ~/.cache/llama.cpp. A download that was stopped goes on where it was.",
]

const aModel = { name: "model.gguf", isRepeated: false }

export const commands = {
  run: {
    about: "Run a model over servers and local devices",
    flags: runFlags,
    positional: aModel,
    notes: [
      "The generated text goes to stdout, everything else to stderr. Ctrl-C ends the generation.",
    ],
    examples: [
      "ggml-rpc run --rpc 10.0.0.2:50052,10.0.0.3:50052 model.gguf -p 'Once upon'",
      "ggml-rpc run model.gguf -f prompt.txt --temp 0 > answer.txt",
      "ggml-rpc run -hf ggml-org/gemma-3-4b-it-GGUF --rpc 10.0.0.2:50052 -p Hello",
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
    positional: { name: "model.gguf", isRepeated: true },
    notes: [
      "The same tokens are evaluated on the local CPU and on the cluster. Different kinds of devices round differently; more than the tolerance means that something computes wrong. Exit code 1 when any model differs or fails.",
    ],
    examples: ["ggml-rpc verify --rpc 10.0.0.2:50052 model.gguf", "ggml-rpc verify *.gguf --json"],
  },
  pull: {
    about: "Download models by name, for later",
    flags: pullFlags,
    positional: { name: "user/repo[:quant]", isRepeated: true },
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
    positional: { name: "user/repo[:quant]", isRepeated: true },
    notes: [
      "Without a quantization all of the repository goes. A model by URL is named by its file, as 'ls' shows it. What a download that broke off has left goes as well.",
    ],
    examples: ["ggml-rpc rm ggml-org/gemma-3-4b-it-GGUF:Q8_0"],
  },
  cache: {
    about: "Look after the weights that 'serve --cache' keeps on this machine's disk",
    flags: cacheFlags,
    positional: { name: "ls|verify|prune", isRepeated: false },
    notes: [
      "ls lists the files, verify reads all of them and says which are damaged (exit code 1), prune removes leftovers of writes that broke off and, with --keep, the least recently used files. The folder is llama.cpp's: $LLAMA_CACHE/rpc, or rpc in llama.cpp's cache folder. Servers may go on meanwhile.",
    ],
    examples: ["ggml-rpc cache ls", "ggml-rpc cache prune --keep 20G"],
  },
  service: {
    about: "Have 'serve' started and kept by this user's session",
    flags: serviceFlags,
    positional: { name: "install|remove", isRepeated: false },
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
} as const satisfies Record<string, CommandSpec>

export type CommandName = keyof typeof commands
