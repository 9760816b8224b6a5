/** Devices of the engine's process, and what is loaded on them. */
import {
  type Address,
  ContextError,
  type Device,
  deviceDomain,
  deviceMemory,
  findsCandidates,
  hostDomain,
  hostMemory,
  io,
  LlamaModel,
  listDevices,
  type ModelContext,
  type ModelInfo,
  ModelLoadError,
} from "@ggml-rpc/native/bindings/llama"
import { formatVersion } from "@ggml-rpc/protocol"
import { chooseNumbering } from "../connection/numbering.ts"
import { RpcConnection } from "../connection/RpcConnection.ts"
import { RemoteDevices } from "../devices/RemoteDevices.ts"
import { sumOrder } from "../devices/sumOrder.ts"
import { EngineRequestError, ModelError, PlanError } from "../errors.ts"
import type { LackingServer } from "../lacking.ts"
import { domainsOf } from "../memoryDomains.ts"
import type { Loaded } from "./Loaded.ts"
import type {
  EngineContextOptions,
  EngineDevice,
  EngineEndpoint,
  EngineEvent,
  EngineServer,
  MeasuredRow,
  Numbered,
  PlacedModel,
  UnsupportedOps,
} from "./messages.ts"
import { Slots, type SlotsHost } from "./slots/Slots.ts"
import { TokenWriter } from "./slots/TokenWriter.ts"
import { unsupportedOp, unsupportedOps } from "./unsupported.ts"
import { usedPlaces } from "./usedPlaces.ts"

/** Requests are numbered from 1. */
const NO_REQUEST = 0

/** What devices that do not say which ones of the machine they are have in common. */
const THIS_PROCESS = crypto.randomUUID()

/** What is loaded, and the texts at work on it. */
export interface Active extends Loaded {
  /** The smaller model that guesses for it. */
  readonly draft: Loaded | undefined
  readonly slots: Slots
}

/** @throws {ModelError} for a model whose memory does not let go of wrong guesses */
const checkSpeculation = (
  path: string,
  { isRecurrent, isHybrid }: ModelInfo,
  { speculation }: EngineContextOptions,
): void => {
  if (speculation === undefined || !(isRecurrent || isHybrid)) return
  const detail =
    "what it remembers of a text is a state that no token can be taken back from, and guesses of tokens are taken back where they are wrong; leave out --spec-type and --spec-draft-model."
  throw new ModelError({ path, during: "load", detail })
}

/** What an encoder made of a text is there once a context, and for one slot. */
const slotsOf = (model: LlamaModel, { slotCount }: EngineContextOptions): number =>
  model.info.hasEncoder ? 1 : (slotCount ?? 1)

const groupsOf = (model: LlamaModel, options: EngineContextOptions): number =>
  Math.min(options.groupCount ?? 1, slotsOf(model, options))

/** Counts as proportions: they add up to gpuLayers, so llama.cpp rounds to the very same counts. */
const splitLayers = (unitCounts: ReadonlyArray<number>) => ({
  tensorSplit: unitCounts,
  gpuLayers: unitCounts.reduce((sum, count) => sum + count, 0),
})

export class Engine {
  remote: RemoteDevices | undefined
  readonly servers: Array<EngineServer> = []
  private readonly local: Array<Device> = []
  /** Tokens on their way to the host. */
  readonly writer: TokenWriter
  /** What texts at work ask of the engine. */
  readonly slotsHost: SlotsHost = {
    failIfLost: () => this.failIfLost(),
    isCancelled: (id) => this.isCancelled(id),
    setRunning: (id) => this.setRunning(id),
    flush: () => this.remote?.flush(),
    note: (text) => this.note(text),
  }
  private readonly noted = new Set<string>()
  private readonly sendAll: (events: ReadonlyArray<Numbered<EngineEvent>>) => void
  private loaded: Active | undefined
  private readonly abortFlag = io().io_abort_flag() as Address

  constructor(sendAll: (events: ReadonlyArray<Numbered<EngineEvent>>) => void) {
    this.sendAll = sendAll
    this.writer = new TokenWriter(sendAll)
  }

  /** Tells what makes the model slower than it could be; the same only once. */
  note(text: string): void {
    if (this.noted.has(text)) return
    this.noted.add(text)
    this.sendAll([{ type: "note", text, id: NO_REQUEST }])
  }

  /** From now on a cancel of this request stops what runs; 0: none. */
  setRunning(id: number): void {
    io().io_clear_abort()
    io().io_set_running(id)
  }

  /** The local devices of these names; undefined: every GPU. */
  useLocal(names: ReadonlyArray<string> | undefined): void {
    const locals = listDevices()
    if (names === undefined) {
      this.local.push(...locals.filter(({ type }) => type === "GPU" || type === "IGPU"))
      return
    }
    for (const name of names) {
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

  connect(endpoints: ReadonlyArray<EngineEndpoint>, timeoutMs: number, token?: string): void {
    const connections = endpoints.map((endpoint) => new RpcConnection(endpoint, token))
    for (const [index, connection] of connections.entries()) {
      connection.open(timeoutMs, connections.slice(0, index))
      const warning = chooseNumbering(connection, endpoints[index]!.operationCount)
      const { endpoint, kind, dialect } = connection
      const server = { endpoint, kind, version: formatVersion(dialect.version) }
      this.servers.push(warning === undefined ? server : { ...server, warning })
    }
    this.remote = new RemoteDevices(connections)
    this.failIfLost()
    for (const [index, connection] of connections.entries()) {
      const { serverName } = connection
      if (serverName === undefined) continue
      connection.failIfSameAs(
        connections.slice(0, index).find((other) => other.serverName === serverName),
      )
    }
  }

  /** Remote devices first, as llama.cpp orders them: fewer activations cross the network. */
  devices(): ReadonlyArray<EngineDevice> {
    const remote = (this.remote?.devices ?? []).map((device) => ({
      device: { name: device.name, description: device.endpoint, endpoint: device.endpoint },
      domain: device.domain,
      address: device.serverAddress,
      ...(this.remote!.memory(device) ?? { freeBytes: 0, totalBytes: 0 }),
    }))
    this.failIfLost()
    const local = this.local.map((device) => ({
      device: { name: device.name, description: device.description },
      domain: deviceDomain(device, THIS_PROCESS).toHex(),
      ...deviceMemory(device),
    }))
    const all = [...remote, ...local]
    const { memory, ...host } = this.host()
    return domainsOf(all, { ...host, domain: memory }).map((domain, index) => {
      const { device, freeBytes, totalBytes } = all[index]!
      return {
        ...device,
        freeBytes,
        totalBytes,
        ...(domain === undefined ? {} : { memory: domain }),
      }
    })
  }

  host(): EngineDevice {
    const cpu = listDevices().find((device) => device.type === "CPU")
    const memory = hostDomain(THIS_PROCESS).toHex()
    return { name: "CPU", description: cpu?.description ?? "", ...hostMemory(), memory }
  }

  private get addresses(): ReadonlyArray<Address> {
    return [...(this.remote?.devices ?? []), ...this.local].map((device) => device.address)
  }

  /** @throws {ClusterError} what a connection was lost by, or which server could not give memory */
  failIfLost(): void {
    if (this.remote?.failure !== undefined) throw this.remote.failure
  }

  /** The host wants this request stopped. */
  isCancelled(id: number): boolean {
    return io().io_is_cancelled(id) !== 0
  }

  /** No text is at work on the model. */
  get isIdle(): boolean {
    return this.loaded?.slots.isIdle ?? true
  }

  /** Goes on with the texts at work, by one batch. */
  step(): void {
    this.loaded?.slots.step()
    this.writer.flushIfDue()
  }

  /** Model and context as placed, of a file that stands for the model's if need be; `release` of the model frees both. */
  acquire(
    placed: PlacedModel,
    { noAlloc, file = placed.path }: { readonly noAlloc: boolean; readonly file?: string },
  ): Loaded {
    const { abortFlag } = this
    const { path, placement, context, model: weights } = placed
    const { devices, shares } = placement
    const { sums, wire, ...held } = weights
    const overrides = weights.overrides ?? []
    // Only the devices that get something: one without layers would still get compute buffers.
    const used = shares === undefined ? usedPlaces(placed) : this.inSumOrder(placed)
    if (!noAlloc && shares !== undefined) this.remote?.cutTensors(sums ?? "best")
    let model: LlamaModel | undefined
    try {
      model = LlamaModel.open(file, {
        ...held,
        devices: used.map((at) => this.addresses[devices[at]!]!),
        ...(shares === undefined
          ? splitLayers(used.map((at) => placement.unitCounts[at]!))
          : {
              splitMode: "tensor" as const,
              tensorSplit: used.map((at) => shares[at]!),
              gpuLayers: Math.max(...placement.unitCounts),
            }),
        overrides: overrides.map(({ pattern, device }) => ({
          pattern,
          device: this.addresses[device] ?? null,
        })),
        noAlloc,
        abortFlag,
      })
      checkSpeculation(path, model.info, context)
      // ggml's own sums are there to compare others with.
      if (!noAlloc && wire === "bf16" && sums !== "ggml") {
        this.remote?.carryBf16(model.info.embeddingSize)
      }
      const groupCount = groupsOf(model, context)
      const contextOptions = {
        ...context,
        abortFlag,
        sequenceCount: Math.ceil((context.slotCount ?? 1) / groupCount),
        ...(context.outputCount !== undefined && {
          candidates: this.candidatesOf(
            // libllama runs no samplers on tensors that are cut. One may have overridden tensors alone.
            shares === undefined
              ? used.filter((at) => placement.unitCounts[at]! > 0).map((at) => devices[at]!)
              : [],
            model.info,
          ),
        }),
        ...(context.embeddings ? { pooling: context.pooling ?? 0 } : {}),
      }
      const contexts: Array<ModelContext> = []
      while (contexts.length < (noAlloc ? 1 : groupCount)) {
        contexts.push(model.openContext(contextOptions))
      }
      // A device without memory is noticed by whoever asks; see the shim's `gs_remote_dead_buffers`.
      this.failIfLost()
      return { model, contexts, context: contexts[0]!, groupCount, path, options: context }
    } catch (error) {
      model?.release()
      // What the server said is more telling than what libllama made of it.
      this.failIfLost()
      if (error instanceof ModelLoadError || error instanceof ContextError) {
        const during = error._tag === "ContextError" ? "context" : "load"
        throw new ModelError({ path, during, detail: error.message })
      }
      throw error
    }
  }

  /** The places that get something where tensors are cut, in the order in which servers add up most by themselves. */
  private inSumOrder(placed: PlacedModel): ReadonlyArray<number> {
    const used = usedPlaces(placed)
    const remote = this.remote?.devices ?? []
    const { devices } = placed.placement
    // A device of this host is a server by itself.
    const servers = used.map((at) => remote[devices[at]!]?.endpoint ?? at)
    return sumOrder(servers).map((index) => used[index]!)
  }

  /**
   * As they are read; by the graph where the output layer, which the last device with layers has, is on a server that cannot do that and
   * whose device has the operations.
   */
  private candidatesOf(
    withLayers: ReadonlyArray<number>,
    { vocabSize, hasEncoder }: ModelInfo,
  ): "graph" | "read" {
    const last = withLayers.at(-1)
    const { remote } = this
    if (last === undefined || last >= (remote?.devices.length ?? 0) || hasEncoder) return "read"
    if (remote!.findsTop(last)) return "read"
    return findsCandidates(this.addresses[last]!, vocabSize) ? "graph" : "read"
  }

  /**
   * What `look` makes of a model loaded without memory, and of what the devices do not support of it.
   *
   * @throws {UnsupportedOpError} when that is what only one of them could compute
   */
  measured<Result>(
    load: () => Loaded,
    look: (loaded: Loaded, unsupported: ReadonlyArray<UnsupportedOps>) => Result,
  ): Result {
    const release = ({ model }: Loaded): void => model.release()
    this.remote ??= new RemoteDevices([])
    const { remote } = this
    return remote.measured(load, release, (loaded, support) => {
      this.failIfLost()
      const stuck = support.findIndex(({ stuckOp }) => stuckOp >= 0)
      if (stuck >= 0) throw unsupportedOp(remote.devices[stuck]!, support[stuck]!.stuckOp)
      const isRefused = support.some(({ refusalCount }) => refusalCount > 0)
      return look(loaded, isRefused ? unsupportedOps(loaded.context, remote.devices) : [])
    })
  }

  /** Servers with a part of the model whose activations stay F32 although bf16 was asked for. */
  exactServers(placed: PlacedModel): ReadonlyArray<LackingServer> {
    if (placed.model.wire !== "bf16") return []
    const used = usedPlaces(placed).map((at) => placed.placement.devices[at]!)
    return this.remote?.withoutBf16(used) ?? []
  }

  /** What a model and its context take, by the indexes that the host knows devices by. */
  rows(loaded: Loaded): ReadonlyArray<MeasuredRow> {
    const { context, groupCount } = loaded
    return context.memoryBreakdown().map(({ deviceAddress, ...row }) => ({
      ...row,
      contextBytes: row.contextBytes * groupCount,
      computeBytes: row.computeBytes * groupCount,
      device: deviceAddress === null ? -1 : this.addresses.indexOf(deviceAddress),
    }))
  }

  /** Makes this the model that requests are about. */
  keep(loaded: Loaded, draft: Loaded | undefined): void {
    const slotCount = slotsOf(loaded.model, loaded.options)
    const slots = new Slots(loaded, slotCount, this.slotsHost, draft)
    this.loaded = { ...loaded, draft, slots }
  }

  /** Frees that model, if there is one. */
  unload(): void {
    if (this.loaded !== undefined) {
      const { model, draft, slots } = this.loaded
      this.loaded = undefined
      slots.release()
      draft?.model.release()
      model.release()
      this.remote?.flush()
    }
    this.remote?.cutTensors(undefined)
    this.remote?.carryBf16(undefined)
  }

  /** @throws {EngineRequestError} when nothing is loaded */
  required(): Active {
    if (this.loaded === undefined) throw new EngineRequestError({ reason: "no-model", detail: "" })
    return this.loaded
  }
}
