/**
 * The engine: a process that runs libllama over remote devices. One synchronous loop: read a request
 * from stdin, do it (blocking), write events to stdout. It ends when its parent does, by closing stdin,
 * or by SIGKILL; the servers free what was theirs when the connections close with it.
 */
import { type Pointer, read } from "bun:ffi"
import {
  type Address,
  ContextError,
  type Device,
  decodeStatusText,
  deviceMemory,
  ggml,
  hostMemory,
  io,
  LlamaModel,
  listDevices,
  loadBackends,
  type ModelContext,
  ModelLoadError,
  TokenizeError,
} from "@ggml-rpc/native/bindings/llama"
import { MessageReader, send as sendMessage } from "@ggml-rpc/native/worker/child"
import {
  type ClusterError,
  EngineError,
  errorToData,
  isClusterError,
  ModelError,
  PlanError,
} from "../errors.ts"
import { generate, type Subject } from "./generate.ts"
import type {
  EngineContextOptions,
  EngineDevice,
  EngineEvent,
  EngineRequest,
  MeasuredRow,
  Placement,
  TokenData,
} from "./messages.ts"
import { RemoteDevices } from "./RemoteDevices.ts"
import { RpcConnection } from "./RpcConnection.ts"

const send = (event: EngineEvent, data?: Uint8Array): void => sendMessage(event, data)

/**
 * Tokens on their way to the host. Each write wakes that process, which on a small machine takes the
 * processor from a local server: tokens that come faster than a person could see leave together.
 */
class TokenWriter {
  private tokens: Array<TokenData> = []
  private writtenAt = 0

  push(id: number, text: string): void {
    this.tokens.push([id, text])
    if (performance.now() - this.writtenAt >= TOKEN_INTERVAL_MS) this.flush()
  }

  flush(): void {
    if (this.tokens.length === 0) return
    send({ type: "generating", tokens: this.take() })
    this.writtenAt = performance.now()
  }

  /** What was not written yet is the caller's. */
  take(): ReadonlyArray<TokenData> {
    const { tokens } = this
    this.tokens = []
    return tokens
  }
}

const PROGRESS_INTERVAL_MS = 50

/** What libllama frees after a measurement for a plan it needs again for the load that follows. */
const HEAP_BYTES = 16 * 1024 * 1024

/**
 * A text that grows 20 times a second looks smooth. A slower model's tokens leave one by one, at once; and what
 * an event costs the host, a millisecond of its core when the model has emptied its caches, is paid that often.
 */
const TOKEN_INTERVAL_MS = 50

interface Loaded {
  readonly model: LlamaModel
  readonly context: ModelContext
  readonly path: string
  readonly options: EngineContextOptions
}

/** Devices of this process, and what is loaded on them. */
class Engine {
  private remote: RemoteDevices | undefined
  private readonly local: Array<Device> = []
  private loaded: Loaded | undefined
  private readonly abortFlag = io().io_abort_flag() as Pointer & Address

  handle(request: EngineRequest): void {
    io().io_clear_abort()
    switch (request.type) {
      case "open":
        this.open(request)
        send({ type: "opened", devices: this.devices(), host: this.host() })
        this.remote?.beginWork()
        this.warmUp()
        break
      case "memory":
        send({ type: "memory", devices: this.devices(), host: this.host() })
        break
      case "measure":
        this.measure(request.path, request.placement, request.context)
        break
      case "load":
        this.load(request)
        break
      case "unload":
        this.unload()
        send({ type: "unloaded" })
        break
      case "tokenize":
        this.tokenize(request)
        break
      case "generate":
        this.generate(request)
        break
      case "evaluate":
        this.evaluate(request.tokens)
        break
    }
  }

  /** While the host reads the model file and thinks about a plan. The request is answered: nothing may come of this. */
  private warmUp(): void {
    try {
      this.remote?.warmUp()
    } catch {
      // It only saves time.
    }
  }

  private open(request: EngineRequest & { type: "open" }): void {
    const locals = listDevices()
    if (request.localDevices === undefined) {
      this.local.push(...locals.filter(({ type }) => type === "GPU" || type === "IGPU"))
    } else {
      for (const name of request.localDevices) {
        const found = locals.find((device) => device.name === name)
        if (found === undefined) {
          throw new PlanError({
            reason: "unknown-device",
            detail: `There is no local device '${name}'; there are: ${locals.map((device) => device.name).join(", ")}. 'none' uses no local device but the CPU.`,
          })
        }
        // The CPU computes what no device gets: naming it changes nothing.
        if (found.type !== "CPU") this.local.push(found)
      }
    }
    const connections = request.endpoints.map((endpoint) => new RpcConnection(endpoint))
    for (const connection of connections) connection.open(request.connectTimeoutMs)
    this.remote = new RemoteDevices(connections)
    this.failIfLost()
  }

  /** Remote devices first, as llama.cpp orders them: fewer activations cross the network. */
  private devices(): ReadonlyArray<EngineDevice> {
    const remote = (this.remote?.devices ?? []).map((device) => ({
      name: device.name,
      description: device.endpoint,
      endpoint: device.endpoint,
      ...(this.remote!.memory(device) ?? { freeBytes: 0, totalBytes: 0 }),
    }))
    this.failIfLost()
    const local = this.local.map((device) => ({
      name: device.name,
      description: device.description,
      ...deviceMemory(device),
    }))
    return [...remote, ...local]
  }

  private host(): EngineDevice {
    const cpu = listDevices().find((device) => device.type === "CPU")
    return { name: "CPU", description: cpu?.description ?? "", ...hostMemory() }
  }

  private get addresses(): ReadonlyArray<Address> {
    return [...(this.remote?.devices ?? []), ...this.local].map((device) => device.address)
  }

  private failIfLost(): void {
    if (this.remote?.failure !== undefined) throw this.remote.failure
  }

  /** Model and context of a placement; `release` of the model frees both. */
  private acquire(
    path: string,
    placement: Placement,
    context: EngineContextOptions,
    options: { readonly noAlloc: boolean; readonly mmap: boolean },
  ): Loaded {
    this.remote?.clearMemoryFailure()
    const { abortFlag } = this
    // Only the devices that get something: one without layers would still get compute buffers.
    const used = placement.unitCounts.flatMap((count, index) => (count > 0 ? [index] : []))
    let model: LlamaModel | undefined
    try {
      model = LlamaModel.open(path, {
        devices: used.map((index) => this.addresses[index]!),
        // Counts as proportions: they add up to gpuLayers, so llama.cpp rounds to the very same counts.
        tensorSplit: used.map((index) => placement.unitCounts[index]!),
        gpuLayers: used.reduce((sum, index) => sum + placement.unitCounts[index]!, 0),
        mmap: options.mmap,
        noAlloc: options.noAlloc,
        abortFlag,
      })
      const made = model.openContext({
        ...context,
        abortFlag,
        ...(context.embeddings ? { pooling: 0 } : {}),
      })
      return { model, context: made, path, options: context }
    } catch (error) {
      model?.release()
      // What the server said is more telling than what libllama made of it.
      if (this.remote?.failure !== undefined) throw this.remote.failure
      if (error instanceof ModelLoadError || error instanceof ContextError) {
        const during = error._tag === "ContextError" ? "context" : "load"
        throw new ModelError({ path, during, detail: error.message })
      }
      throw error
    }
  }

  private rows(loaded: Loaded): ReadonlyArray<MeasuredRow> {
    return loaded.context.memoryBreakdown().map(({ deviceAddress, ...row }) => ({
      ...row,
      device: deviceAddress === null ? -1 : this.addresses.indexOf(deviceAddress),
    }))
  }

  private measure(path: string, placement: Placement, context: EngineContextOptions): void {
    const loaded = this.acquire(path, placement, context, { noAlloc: true, mmap: false })
    const rows = this.rows(loaded)
    const contextSize = loaded.context.contextSize
    loaded.model.release()
    this.failIfLost()
    send({ type: "measured", rows, contextSize })
  }

  /** @throws {ClusterError} when it failed; nothing is left of it then */
  private load(request: EngineRequest & { type: "load" }): void {
    this.unload()
    try {
      this.loadFresh(request)
    } catch (error) {
      this.unload()
      throw error
    }
  }

  private loadFresh(request: EngineRequest & { type: "load" }): void {
    const started = performance.now()
    const doneBefore = this.remote?.weightBytesDone ?? 0
    const cachedBefore = this.remote?.weightBytesCached ?? 0
    const { remote } = this
    if (remote !== undefined) {
      // A small model is loaded before there is anything to see.
      let reported = started
      remote.onWeight = () => {
        const now = performance.now()
        if (now - reported < PROGRESS_INTERVAL_MS) return
        reported = now
        send({
          type: "progress",
          doneBytes: remote.weightBytesDone - doneBefore,
          cachedBytes: remote.weightBytesCached - cachedBefore,
        })
      }
    }
    this.loaded = this.acquire(request.path, request.placement, request.context, {
      noAlloc: false,
      mmap: request.mmap,
    })
    if (remote !== undefined) {
      remote.onWeight = undefined
      remote.settle()
    }
    this.failIfLost()
    send({
      type: "loaded",
      info: this.loaded.model.info,
      contextSize: this.loaded.context.contextSize,
      rows: this.rows(this.loaded),
      stats: {
        loadMs: performance.now() - started,
        remoteWeightBytes: (remote?.weightBytesDone ?? 0) - doneBefore,
        cachedWeightBytes: (remote?.weightBytesCached ?? 0) - cachedBefore,
      },
    })
  }

  private unload(): void {
    if (this.loaded === undefined) return
    const { model } = this.loaded
    this.loaded = undefined
    model.release()
    this.remote?.flush()
  }

  /** The abort flag also rises with a lost connection, which is reported first. */
  private get isCancelled(): boolean {
    return read.i32(this.abortFlag, 0) !== 0
  }

  private required(): Loaded {
    if (this.loaded === undefined) throw new EngineError({ detail: "no model is loaded" })
    return this.loaded
  }

  private tokenize(request: EngineRequest & { type: "tokenize" }): void {
    const { model, path } = this.required()
    try {
      const { addSpecial, parseSpecial } = request
      const tokens = model.encodeText(request.text, { addSpecial, parseSpecial })
      send({ type: "tokens", tokens: [...tokens] })
    } catch (error) {
      if (!(error instanceof TokenizeError)) throw error
      throw new ModelError({ path, during: "tokenize", detail: error.message })
    }
  }

  private check(status: number, during: "decode" | "encode"): void {
    this.failIfLost()
    if (status !== 0) {
      const { path } = this.required()
      throw new ModelError({ path, during, detail: `${decodeStatusText(status)}.` })
    }
  }

  private generate(request: EngineRequest & { type: "generate" }): void {
    const { model, context, options, path } = this.required()
    if (options.embeddings || model.info.isDiffusion) {
      throw new ModelError({
        path,
        during: "decode",
        detail: options.embeddings
          ? "it puts out embeddings, so it cannot generate text; 'verify' can evaluate it."
          : "it is a diffusion model, which does not generate text token by token; 'verify' can evaluate it.",
      })
    }
    const writer = new TokenWriter()
    const subject: Subject = {
      model,
      context,
      path,
      failIfLost: () => this.failIfLost(),
      isCancelled: () => this.isCancelled,
    }
    try {
      const { text, stats } = generate(subject, request, {
        onToken: (id, text) => writer.push(id, text),
      })
      send({ type: "generated", tokens: writer.take(), text, stats })
    } finally {
      // What was computed before a failure is the user's all the same.
      writer.flush()
    }
  }

  /** @throws {ModelError} when so many tokens cannot be evaluated */
  private checkLength(tokenCount: number): void {
    const { model, context, options, path } = this.required()
    const fail = (detail: string): never => {
      throw new ModelError({ path, during: "decode", detail })
    }
    if (tokenCount === 0) fail("there are no tokens.")
    // Rounding up gives a context more room than a table of positions has.
    const room = options.embeddings
      ? Math.min(context.contextSize, model.info.trainContextSize)
      : context.contextSize
    if (tokenCount > room) {
      fail(
        `${tokenCount} tokens do not fit its context of ${room}; raise --ctx-size or give fewer tokens.`,
      )
    }
    if (options.wholeBatch && tokenCount > context.ubatchSize) {
      fail(
        `it looks at all tokens at once, and ${tokenCount} do not fit a batch of ${context.ubatchSize}; raise --ubatch-size.`,
      )
    }
  }

  /** Logits, or embeddings, of every token. */
  private evaluate(ids: ReadonlyArray<number>): void {
    const { model, context, options, path } = this.required()
    const { info } = model
    const tokens = Int32Array.from(ids)
    this.checkLength(tokens.length)
    const isEmbedding = options.embeddings || !info.hasDecoder
    const columnCount = isEmbedding ? info.outputEmbeddingSize : info.vocabSize
    const values = new Float32Array(tokens.length * columnCount)
    const take = (first: number, count: number): void => {
      context.synchronize()
      this.failIfLost()
      for (let row = 0; row < count; row++) {
        const output = isEmbedding ? context.embeddings(row) : context.logits(row)
        values.set(output, (first + row) * columnCount)
      }
    }
    context.clearMemory()
    if (info.hasEncoder) {
      this.check(context.encode(tokens, { allOutputs: true }), "encode")
      if (!info.hasDecoder) take(0, tokens.length)
    }
    for (let at = 0; info.hasDecoder && at < tokens.length; at += context.batchSize) {
      if (this.isCancelled) {
        throw new ModelError({ path, during: "decode", detail: "it was stopped." })
      }
      const batch = tokens.subarray(at, at + context.batchSize)
      this.check(context.decode(batch, { firstPosition: at, allOutputs: true }), "decode")
      take(at, batch.length)
    }
    send(
      {
        type: "evaluated",
        kind: isEmbedding ? "embeddings" : "logits",
        rowCount: tokens.length,
        columnCount,
        bytes: values.byteLength,
      },
      new Uint8Array(values.buffer),
    )
  }
}

const toClusterError = (error: unknown): ClusterError =>
  isClusterError(error)
    ? error
    : new EngineError({
        detail:
          error instanceof Error
            ? process.env.GGML_RPC_DEBUG
              ? String(error.stack)
              : error.message
            : String(error),
      })

const main = (): void => {
  io().io_watch_parent(0)
  io().io_ignore_terminal_signals()
  io().io_abort_on_signal()
  // Bun makes a piped stdout non-blocking, and a large evaluation would end in EAGAIN half-way.
  io().io_tune_socket(1, 0)
  loadBackends(process.env.GGML_RPC_DEBUG ? 1 : 0)
  ggml().gs_keep_heap(HEAP_BYTES)
  const requests = new MessageReader<EngineRequest>()
  const engine = new Engine()
  for (let request = requests.next(); request !== undefined; request = requests.next()) {
    try {
      engine.handle(request)
    } catch (error) {
      send({ type: "failed", error: errorToData(toClusterError(error)) })
    }
  }
  // Freeing models and buffers one by one would only delay what the end of the process does at once.
  process.exit(0)
}

main()
