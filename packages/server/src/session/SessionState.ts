import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml, io, takeLog } from "@ggml-rpc/native/bindings"
import { Command, type Dialect, describeCommand } from "@ggml-rpc/protocol"
import type { Cache } from "../cache/Cache.ts"
import type { ModelIndex } from "../cache/ModelIndex.ts"
import type { CommLimits, CommLink } from "./CommLink.ts"
import { type Doing, nobodyAsks } from "./Doing.ts"
import { ComputeError, refuse } from "./errors.ts"
import type { ClientLimits, LinkEvent, StatsEvent } from "./events.ts"
import { GraphCheck } from "./graph/GraphCheck.ts"
import { StoredGraphs } from "./graph/StoredGraphs.ts"
import { type BufferRule, TensorCheck } from "./graph/TensorCheck.ts"
import { hexU64, type Words, word, writeU64 } from "./graph/tensorWords.ts"
import { Buffers, type SessionBuffer } from "./memory/buffers.ts"
import type { ServedDevice } from "./memory/devices.ts"
import { HostMemory } from "./memory/HostMemory.ts"
import { LargePages } from "./memory/LargePages.ts"
import type { Ledger } from "./memory/MemoryLedger.ts"
import { type MemoryLimits, MemoryQuota } from "./memory/MemoryQuota.ts"
import type { FrontChannel, PeerGroup, PeerLimits } from "./PeerGroup.ts"
import type { ServerReport } from "./ServerReport.ts"
import { newestSpoken, type Spoken } from "./spoken.ts"
import { Wire } from "./Wire.ts"

/** Tensor data of devices whose memory the host cannot reach passes through a block of this size. */
export const STAGING_BYTES = 4 * 1024 * 1024

export interface SessionOptions {
  readonly devices: readonly ServedDevice[]
  readonly cache: Cache | undefined
  /** Weights in models of this machine; absent: none are looked at. */
  readonly models?: ModelIndex | undefined
  /** What sessions promised to their clients. */
  readonly ledger: Ledger
  /** How the server is; default: nobody tells. */
  readonly report?: () => ServerReport | undefined
  /** Name of the server, in hex; default: it has none. */
  readonly serverName?: string
  readonly memoryLimits?: MemoryLimits
  /** Whether data may go straight into and out of host memory. */
  readonly directMemory: boolean
  /** Whether operations that only training uses are run. */
  readonly allowTraining: boolean
  /** See `ServeOptions.repack`; default: no. */
  readonly repack?: boolean
  /** See `largePageBytes`; default: none. */
  readonly largePageBytes?: number
  /** Links by upstream's COMM_INIT are made within these limits; absent: none is. */
  readonly commLimits?: CommLimits | undefined
  /** Links to servers of ours are made within these; absent: none is. */
  readonly peerLimits?: PeerLimits | undefined
  /** How the front process is asked for links. */
  readonly askFront?: Omit<FrontChannel, "clientFd">
  /** Default: none but those of formats. */
  readonly clientLimits?: ClientLimits
  /** Where the command under way is written. */
  readonly doing?: Doing
  /** Told what was counted, now and then. */
  readonly onStats?: (event: StatsEvent) => void
  /** Told of links that are wanted or made; see commands/comm.ts. */
  readonly onLink?: (event: LinkEvent) => void
  /** See `SessionState.spend`. */
  readonly onSpent?: () => void
  /** Called with each request's command and payload size. */
  readonly onRequest: ((command: number, sizeBytes: number) => void) | undefined
}

/** Devices that a number of 32 bits has room for. */
const MAX_AT_ONCE = 31

/** What the commands of a session work on, and what they ask of a request all the time. */
export class SessionState {
  readonly ggml = ggml()
  readonly io = io()
  readonly devices: readonly ServedDevice[]
  readonly cache: Cache | undefined
  readonly models: ModelIndex | undefined
  readonly ledger: Ledger
  readonly hostMemory: HostMemory
  readonly quota: MemoryQuota
  readonly report: () => ServerReport | undefined
  readonly serverName: string
  readonly directMemory: boolean
  readonly repacks: boolean
  readonly commLimits: CommLimits | undefined
  readonly onLink: ((event: LinkEvent) => void) | undefined
  readonly peerLimits: PeerLimits | undefined
  readonly askFront: Omit<FrontChannel, "clientFd"> | undefined
  readonly clientLimits: ClientLimits
  readonly doing: Doing
  readonly wire: Wire
  readonly buffers = new Buffers()
  readonly largePages: LargePages
  /** Looked at the tensor that `takeTensor` took last. */
  readonly tensor: TensorCheck
  readonly graph: GraphCheck
  readonly stored: StoredGraphs
  /** Holds a graph while it is checked and built. */
  block: Words = new Uint32Array(0)
  blockAddress: Address = 0
  /** By device: its link to another server; see commands/comm.ts. */
  readonly commLinks = new Map<number, CommLink>()
  /**
   * Whether graphs of several devices run at once: each is started, and waited for before anything else than a graph of another device.
   * A limit of their time needs to know when each ends.
   */
  readonly devicesAtOnce: boolean
  /** Bit i: device i may still compute. */
  #running = 0
  /** Its links to servers of ours; see commands/link.ts. */
  peerGroup: PeerGroup | undefined
  /** Links by COMM_INIT that the client asked for. */
  commCount = 0
  /**
   * Whether the client did something whose traces only the end of the process removes for sure: it ran a kernel, had memory of
   * a device or a large graph checked, or was linked with another server.
   */
  #isSpent = false
  readonly #onSpent: (() => void) | undefined
  #spoken: Spoken = newestSpoken
  /** What the client's numbers may mean; once its graphs have told, one. */
  #dialects: readonly Dialect[] = newestSpoken.dialects
  #staging: Uint8Array | undefined

  constructor(options: SessionOptions) {
    const { devices, cache, ledger, directMemory, allowTraining, commLimits, onLink } = options
    this.#onSpent = options.onSpent
    this.clientLimits = options.clientLimits ?? { graphNodes: Number.POSITIVE_INFINITY }
    this.doing = options.doing ?? nobodyAsks()
    this.devicesAtOnce =
      devices.length > 1 &&
      devices.length <= MAX_AT_ONCE &&
      devices.every(({ isAsync }) => isAsync) &&
      this.clientLimits.computeMs === undefined
    this.commLimits = commLimits
    this.onLink = onLink
    this.peerLimits = options.peerLimits
    this.askFront = options.askFront
    this.devices = devices
    this.cache = cache
    this.models = options.models
    this.ledger = ledger
    this.hostMemory = new HostMemory(ledger)
    this.serverName = options.serverName ?? ""
    this.report = options.report ?? (() => undefined)
    this.quota = new MemoryQuota(options.memoryLimits ?? {}, ledger, this.buffers)
    this.directMemory = directMemory
    this.repacks = options.repack ?? false
    this.largePages = new LargePages(options.largePageBytes ?? 0)
    this.wire = new Wire(newestSpoken)
    this.tensor = new TensorCheck(this.buffers, newestSpoken.dialects[0]!)
    this.graph = new GraphCheck(this.buffers, newestSpoken.dialects[0]!, {
      allowTraining,
      nodeLimit: this.clientLimits.graphNodes,
    })
    this.stored = new StoredGraphs(devices.length, (native) =>
      this.ggml.gs_graph_free(asPointer(native)),
    )
  }

  get isSpent(): boolean {
    return this.#isSpent
  }

  /** To be called before the client does such a thing: a process that it takes over then cannot keep it to itself. */
  spend(): void {
    if (this.#isSpent) return
    this.#isSpent = true
    this.#onSpent?.()
  }

  /** Whether a device may still compute. */
  get isRunning(): boolean {
    return this.#running !== 0
  }

  /** A device was given a graph that it may still compute when this process goes on. */
  noteRunning(device: number): void {
    this.#running |= 1 << device
  }

  /**
   * Waits until a device computes no more.
   *
   * @throws {ComputeError} when it failed
   */
  settle(device: number): void {
    if ((this.#running & (1 << device)) === 0) return
    this.#running &= ~(1 << device)
    const { doing } = this
    const asked = doing[0]!
    // Should the process die of it, the request that is handled is not to blame.
    doing[0] = Command.GRAPH_COMPUTE + 1
    const served = this.devices[device]!
    if (!served.synchronize()) {
      const said = takeLog()
      const text = `${served.device.name} failed${said === "" ? "" : `: ${said}`}`
      throw new ComputeError(text, describeCommand(Command.GRAPH_COMPUTE))
    }
    doing[0] = asked
  }

  /** Waits until no device computes: what graphs read and write can be touched then. */
  settleAll(): void {
    for (let device = 0; this.#running !== 0; device++) this.settle(device)
  }

  /** What the client speaks. */
  get spoken(): Spoken {
    return this.#spoken
  }

  /** From here on the client's requests are read, and answered, in this version. */
  speak(version: Spoken): void {
    this.#spoken = version
    this.wire.spoken = version
    this.commCount = 0
    this.dialects = version.dialects
  }

  get dialects(): readonly Dialect[] {
    return this.#dialects
  }

  /** Those that are left after a graph; the first is taken until another graph tells more. */
  set dialects(left: readonly Dialect[]) {
    this.#dialects = left
    this.tensor.dialect = left[0]!
    this.tensor.isAmbiguous = left.length > 1
    this.graph.speak(left[0]!)
  }

  /** The index that the request names, of a device that exists. */
  deviceIndex(): number {
    const at = this.#spoken.offsets.device
    const index = at < 0 ? 0 : this.wire.words[at / 4]!
    if (index < this.devices.length) return index
    return refuse("device", `must be below the device count ${this.devices.length}`, index)
  }

  /** The device that the request names. */
  device(): ServedDevice {
    return this.devices[this.deviceIndex()]!
  }

  /** The buffer whose handle is the u64 at the start of the payload. */
  buffer(): SessionBuffer {
    const { words } = this.wire
    return (
      this.buffers.find(words, 0) ??
      refuse("remote_ptr", "is no buffer of this connection", hexU64(words, 0))
    )
  }

  /**
   * Checks the tensor at a byte of the request, and puts native addresses into its record. From here on, until a graph runs,
   * the memory of one whose buffer is required has what the client wrote, not a layout of its own (shim/ggml/repack.h): its
   * own bytes, or the `sizeBytes` from its data on.
   */
  takeTensor(
    offsetBytes: number,
    name: string,
    rule: BufferRule,
    sizeBytes?: number,
  ): SessionBuffer | undefined {
    const { words } = this.wire
    const at = offsetBytes / 4
    this.tensor.check(words, at, name, rule)
    const { buffer, dataOffsetBytes } = this.tensor
    const data = buffer === undefined ? 0 : buffer.nativeBase + dataOffsetBytes
    writeU64(words, at + word.buffer, buffer?.native ?? 0)
    writeU64(words, at + word.data, data)
    if (this.repacks && rule === "required") {
      const size = Math.max(sizeBytes ?? 0, this.tensor.sizeBytes)
      this.ggml.gs_repack_original(asPointer(buffer!.native), data, size)
    }
    return buffer
  }

  /** Gives all that the client had back to the system, and overwrites what it sent: the next one finds nothing of it. */
  forget(): void {
    for (const { native } of this.buffers.all()) {
      this.ggml.gs_buffer_free(asPointer(native))
    }
    this.buffers.clear()
    this.largePages.clear()
    this.ledger.set(0, 0)
    this.wire.forget()
    this.block.fill(0)
    this.#staging?.fill(0)
    for (const device of this.devices) device.forget()
  }

  /** Native address of the block of `STAGING_BYTES`. */
  stagingAddress(): Address {
    this.#staging ??= new Uint8Array(STAGING_BYTES)
    return ptr(this.#staging) as number
  }

  /** `ggml_backend_t` of a device. */
  backend(device: number): Address {
    const backend = this.devices[device]!.backend()
    if (backend === 0) throw new ComputeError("the device could not be started")
    return backend
  }
}
