/**
 * What goes between the host process and the engine. Every request has an id, which the host counts up; the engine
 * answers each with any number of events and one final one, all with that id. Requests may be sent before earlier ones
 * are answered. A request is cancelled through a file that both share (Cancels.ts). A message is a JSON line; `bytes`
 * says how many raw bytes follow it.
 */
import type {
  AdapterOptions,
  MemoryBreakdownRow,
  ModelInfo,
  RopeOptions,
  SamplerOptions,
} from "@ggml-rpc/native/bindings/llama"
import type { Endpoint } from "@ggml-rpc/protocol"
import type { ServerKind } from "../connection/hello.ts"
import type { ErrorData } from "../errors.ts"
import type { LackingServer } from "../lacking.ts"

/** A device as the engine sees it; its place in the list is its index in every other message. */
export interface EngineDevice {
  readonly name: string
  /** What it is: a remote device's endpoint, a local one's description. */
  readonly description: string
  /** The server, for a remote device. */
  readonly endpoint?: string
  readonly freeBytes: number
  readonly totalBytes: number
  /** Which memory it draws from: devices with the same share it. Absent: no other is known to. */
  readonly memory?: string
}

/** A server as its HELLO and its answers showed it. */
export interface EngineServer {
  readonly endpoint: string
  readonly kind: ServerKind
  /** Its protocol, such as `7.0.0`. */
  readonly version: string
  /** Why it does less than it could, and what to do. */
  readonly warning?: string
}

/** What has gone to a server and come from it since the cluster was opened, but for some headers. */
export interface LinkTraffic {
  readonly endpoint: string
  readonly sentBytes: number
  readonly receivedBytes: number
  /** Blocks of requests that left. */
  readonly writeCount: number
  /** Answers that were waited for. */
  readonly waitCount: number
}

/** How fast the way to a server is. */
export interface LinkSpeed {
  readonly endpoint: string
  /** Of the shortest question and its answer; median. */
  readonly roundTripMs: number
  /** Into a buffer of the server's first device; absent: it has no memory for one. */
  readonly uploadBytesPerSecond?: number
  readonly downloadBytesPerSecond?: number
}

/** How fast a remote device multiplies quantized weights (Q8_0). */
export interface DeviceSpeed {
  /** `RPC0`. */
  readonly device: string
  /** Of a matrix with one row, as for a token. */
  readonly weightBytesPerSecond: number
  /** Of a matrix with many rows, as for a prompt. */
  readonly multiplicationsPerSecond: number
  /** It computes while others of its server do, but for graphs of experts. */
  readonly isAtOnce: boolean
}

/** How a model is put onto devices; units are counted as in planner/plan.ts. */
export interface Placement {
  /** Indexes of devices, in the order of the split. */
  readonly devices: ReadonlyArray<number>
  /** Units for each of them; the rest stays on the CPU of this host. */
  readonly unitCounts: ReadonlyArray<number>
  /** How much of each tensor each device has, where tensors are cut; the counts are those of the units that are cut then. */
  readonly shares?: ReadonlyArray<number>
}

/** A model, where it goes, and with which context. */
export interface PlacedModel {
  readonly path: string
  readonly placement: Placement
  readonly context: EngineContextOptions
  readonly model: EngineModelOptions
}

/** How a model's weights are held. */
export interface EngineModelOptions {
  readonly mmap: boolean
  readonly mlock?: boolean
  /** Whether weights are hashed after the load, for the next one. Absent: true. */
  readonly hashesBeside?: false
  /** Tensors that go elsewhere than their layer, by patterns for their names. */
  readonly overrides?: ReadonlyArray<{
    readonly pattern: string
    /** Index of the device; -1: the CPU of this host. */
    readonly device: number
  }>
  readonly adapters?: ReadonlyArray<AdapterOptions>
  /** Where tensors are cut: `ggml` adds up partial sums by ggml's own all-reduce; for comparisons. Absent: as fast as can be. */
  readonly sums?: "ggml"
  /** Activations that cross between hosts are rounded to bf16, where servers know it. Absent: F32, as they are computed. */
  readonly wire?: "bf16"
}

export interface EngineContextOptions {
  /** Tokens. */
  readonly contextSize: number
  readonly batchSize: number
  readonly ubatchSize: number
  /** Tokens of prompts that one step computes while somebody waits for a token. Absent: `ubatchSize`. */
  readonly promptStepSize?: number
  readonly threads: number
  readonly threadsBatch: number
  readonly flashAttention: -1 | 0 | 1
  /** ggml_type numbers. */
  readonly typeK: number
  readonly typeV: number
  /** The KV cache is where its layers are; else with this host. Absent: true. */
  readonly offloadKqv?: boolean
  readonly rope?: RopeOptions
  /** Give embeddings instead of logits. */
  readonly embeddings: boolean
  /** llama_pooling_type of them, -1 the model's; absent: one embedding a token. */
  readonly pooling?: number
  /** Texts that can be at work at once: slots. Absent: 1. */
  readonly slotCount?: number
  /** Most tokens of a batch that give logits, for which devices keep room; absent: all can. */
  readonly outputCount?: number
  /** How tokens to come are guessed, so that several are computed at once; absent: they are not. */
  readonly speculation?: SpeculationOptions
  /** Contexts that share the slots and take turns, each with a cache of `contextSize` tokens. Absent: 1. */
  readonly groupCount?: number
  /** The model looks at all tokens at once: they cannot be evaluated in parts. */
  readonly wholeBatch: boolean
  /** Positions that the model has a row for in a table, so that it can have no token behind them; absent: any. */
  readonly positionCount?: number
}

export interface SpeculationOptions {
  /** From what a text said before. */
  readonly ngram?: NgramOptions
  /** By a smaller model, where there is no guess from the text; of the smaller model itself neither is there. */
  readonly draft?: DraftOptions
}

export interface DraftOptions {
  /** Most tokens that are guessed at once. */
  readonly draftCount: number
  /** Fewer guesses than that are none. */
  readonly leastCount: number
  /** A guess that the smaller model gives less is none, and ends the others. */
  readonly leastProbability: number
}

export interface NgramOptions {
  /** The last so many tokens must have been there before. */
  readonly lookupCount: number
  /** Most tokens that are guessed at once. */
  readonly draftCount: number
}

/** A server, and where the host has connected to it already, the descriptor that this process was given for that. */
export interface EngineEndpoint extends Endpoint {
  readonly descriptor?: number
}

/** A request with its id, or an event with that of the request it belongs to: 1, 2, … */
export type Numbered<T> = T & { readonly id: number }

export type EngineRequest =
  | {
      readonly type: "open"
      readonly endpoints: ReadonlyArray<EngineEndpoint>
      /** What servers that ask for one are shown. */
      readonly token?: string
      readonly connectTimeoutMs: number
      /** How long a server may be silent while it is waited for; 0: for ever. */
      readonly silenceMs: number
      /** Names of local devices; undefined: every GPU; the CPU needs no naming. */
      readonly localDevices?: ReadonlyArray<string>
    }
  | { readonly type: "memory" }
  | { readonly type: "traffic" }
  | {
      readonly type: "speeds"
      /** Where texts are at work, for their end; otherwise the answer is then what was measured last. */
      readonly waits: boolean
    }
  /** Of devices, by their names, and of links between their servers; what was measured is kept. */
  | { readonly type: "computeSpeeds"; readonly devices: ReadonlyArray<string> }
  | ({
      readonly type: "measure"
      /** A file that the model can be measured by, see `saveGgufOutline`; absent: the model's own. */
      readonly outline?: string
    } & PlacedModel)
  | ({
      readonly type: "load"
      /** The smaller model that guesses for it. */
      readonly draft?: PlacedModel
    } & PlacedModel)
  | { readonly type: "unload" }
  | {
      readonly type: "tokenize"
      /** File whose vocabulary is asked for this alone; absent: the loaded model's. */
      readonly path?: string
      readonly text: string
      readonly addSpecial: boolean
      readonly parseSpecial: boolean
    }
  | { readonly type: "detokenize"; readonly tokens: ReadonlyArray<number> }
  | {
      readonly type: "generate"
      readonly tokens: ReadonlyArray<number>
      /** -1: until the model ends the text or the context is full. */
      readonly maxTokens: number
      readonly sampler: SamplerOptions
      readonly settings: GenerateSettings
    }
  | { readonly type: "evaluate"; readonly tokens: ReadonlyArray<number> }
  | { readonly type: "embed"; readonly tokens: ReadonlyArray<number> }
  | { readonly type: "slots" }
  | {
      readonly type: "slot"
      readonly action: SlotAction
      readonly slot: number
      /** The file, for `save` and `restore`. */
      readonly path: string
    }

export type SlotAction = "save" | "restore" | "erase"

/** What a generation wants besides its samplers; what is absent is as said. */
export interface GenerateSettings {
  /** Texts that end it where they come up, and are not given out. */
  readonly stop?: ReadonlyArray<string>
  /** Gives with each token the logarithm of its probability, and those of the so many most likely ones; absent: neither. */
  readonly topLogprobs?: number
  /** Whether what a slot's cache holds of the prompt is used again; true. */
  readonly cachePrompt?: boolean
  /** The slot that it must have; the best one. */
  readonly slot?: number
  /** Where the context is full: forgets the older half of what follows the first `keepTokens`, and goes on; false. */
  readonly contextShift?: boolean
  /** 0; -1 keeps the whole prompt. */
  readonly keepTokens?: number
  /** Most tokens that are guessed at once, where the model was loaded with speculation: 0 for none; as many as seem worth it. */
  readonly draftCount?: number
  /** Tokens that control a model, such as the marks around its thoughts, come with their text; false: without. */
  readonly controlText?: boolean
}

export interface MeasuredRow extends Omit<MemoryBreakdownRow, "deviceAddress"> {
  /** Index of the device; -1: memory of this host. */
  readonly device: number
}

/** Operations of a model that a device does not compute, although what they read comes from there. */
export interface UnsupportedOps {
  /** Index of the device. */
  readonly device: number
  readonly operations: ReadonlyArray<{
    /** ggml's name, such as `SSM_SCAN`, or that of the kind, such as `SILU`. */
    readonly name: string
    /** Type of the first source, such as `F32`. */
    readonly type: string
    /** Nodes in the graph of one token. */
    readonly nodeCount: number
  }>
  /** How often the graph of one token comes to the device. */
  readonly pieceCount: number
  /** Tensor data that goes to and from the device for one token with a full cache. */
  readonly bytesPerToken: number
}

export interface LoadStats {
  readonly loadMs: number
  /** Bytes of weights that went to servers, or were found in their caches. */
  readonly remoteWeightBytes: number
  readonly cachedWeightBytes: number
}

/** Why a generation ended. */
export type StopReason = "end-of-text" | "token-limit" | "context-full" | "stop-text" | "cancelled"

export interface GenerateStats {
  readonly promptTokenCount: number
  /** Of those, tokens that were in the cache already. */
  readonly cachedTokenCount: number
  /** From the slot it got to the end of the prompt. */
  readonly promptMs: number
  readonly tokenCount: number
  /** From the end of the prompt to the last token. */
  readonly generateMs: number
  /** Tokens that were guessed and computed beside others, and those of them that were right; absent: none. */
  readonly draftedCount?: number
  readonly acceptedCount?: number
  readonly stopReason: StopReason
  /** Which of the texts it was, for `stop-text`. */
  readonly stopText?: string
  readonly slot: number
}

/** A token that could follow. */
export interface TokenLogprob {
  readonly id: number
  /** Its own; U+FFFD for what is no whole character. */
  readonly text: string
  /** Its own, where `text` cannot tell them. */
  readonly bytes?: ReadonlyArray<number>
  /** Natural logarithm of its probability by the model's logits alone; never less than -9999. */
  readonly logprob: number
}

/** The token that was chosen, and the most likely ones, falling. */
export interface TokenLogprobs {
  readonly chosen: TokenLogprob
  readonly top: ReadonlyArray<TokenLogprob>
}

/** A token on its way from the engine to the host. */
export type TokenData = readonly [id: number, text: string, logprobs?: TokenLogprobs]

/** A place for one text at a time, which keeps the tokens of the last one. */
export interface SlotState {
  readonly slot: number
  /** The text at work in it: `prompt` until its first token is there. */
  readonly state: "idle" | "prompt" | "generating"
  /** In the cache. */
  readonly tokenCount: number
}

export type EngineEvent =
  | {
      readonly type: "opened"
      readonly servers: ReadonlyArray<EngineServer>
      readonly devices: ReadonlyArray<EngineDevice>
      readonly host: EngineDevice
    }
  | {
      readonly type: "memory"
      readonly devices: ReadonlyArray<EngineDevice>
      readonly host: EngineDevice
      readonly links: ReadonlyArray<LinkTraffic>
    }
  | { readonly type: "traffic"; readonly links: ReadonlyArray<LinkTraffic> }
  | { readonly type: "speeds"; readonly speeds: ReadonlyArray<LinkSpeed> }
  | {
      readonly type: "computeSpeeds"
      /** Without those that could not be measured, or not yet, since texts are at work. */
      readonly devices: ReadonlyArray<DeviceSpeed>
      /** Why the servers could not exchange partial sums themselves; absent where they can. */
      readonly unlinked?: string
      /** All servers can be sent activations as bf16. */
      readonly speakBf16: boolean
    }
  | {
      readonly type: "measured"
      readonly rows: ReadonlyArray<MeasuredRow>
      readonly unsupported: ReadonlyArray<UnsupportedOps>
      /** Those that are to compute a part, and would be sent bf16 if they knew it. */
      readonly exactServers: ReadonlyArray<LackingServer>
      readonly contextSize: number
    }
  | { readonly type: "progress"; readonly doneBytes: number; readonly cachedBytes: number }
  | {
      readonly type: "loaded"
      readonly info: ModelInfo
      readonly contextSize: number
      readonly rows: ReadonlyArray<MeasuredRow>
      /** Of the smaller model. */
      readonly draftRows?: ReadonlyArray<MeasuredRow>
      readonly stats: LoadStats
    }
  | { readonly type: "unloaded" }
  | { readonly type: "tokens"; readonly tokens: ReadonlyArray<number> }
  | { readonly type: "text"; readonly text: string }
  | {
      readonly type: "generating"
      /** What came since the last of these. */
      readonly tokens: ReadonlyArray<TokenData>
    }
  | {
      readonly type: "generated"
      /** What came since the last `generating`. */
      readonly tokens: ReadonlyArray<TokenData>
      /** What was left of an unfinished character. */
      readonly text: string
      readonly stats: GenerateStats
    }
  | {
      readonly type: "evaluated"
      readonly kind: "logits" | "embeddings"
      readonly rowCount: number
      readonly columnCount: number
      /** rowCount × columnCount little-endian f32, row after row. */
      readonly bytes: number
    }
  | {
      readonly type: "embedded"
      /** Of the whole text: an embedding, or the scores of a classifier; little-endian f32. */
      readonly columnCount: number
      readonly bytes: number
    }
  | {
      readonly type: "slots"
      readonly slots: ReadonlyArray<SlotState>
      /** Requests that have none yet. */
      readonly queuedCount: number
    }
  /** What was asked of a slot is done; its tokens that are, or were, in the cache or the file. */
  | { readonly type: "slot"; readonly tokenCount: number }
  | { readonly type: "failed"; readonly error: ErrorData }
  /** What makes the model slower than it could be, as a sentence; about no request, and each once. */
  | { readonly type: "note"; readonly text: string }

/** Events that end their request. */
export const isFinal = (event: EngineEvent): boolean =>
  event.type !== "progress" && event.type !== "generating" && event.type !== "note"
