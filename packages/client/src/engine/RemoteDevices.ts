/**
 * The devices of remote servers as ggml devices of this process: the callbacks behind the shim's
 * vtables (packages/native/shim/ggml/remote_device.cpp). libllama runs on them as on any GPU.
 *
 * Callbacks run under C++ frames: they never throw, and a broken connection shows in `failure`.
 */
import { JSCallback, ptr, toArrayBuffer } from "bun:ffi"
import { type Address, asPointer, cString, ggml, io, socketPair } from "@ggml-rpc/native/bindings"
import {
  Command,
  encodeResponse,
  Fnv1a64,
  GetAllocSizeRequest,
  GetTensorRequest,
  graphSizeBytes,
  MemsetTensorRequest,
  REQUEST_HEADER_SIZE_BYTES,
  RpcTensor,
  readU64AsNumber,
  SET_TENSOR_PREFIX_SIZE_BYTES,
  SetTensorHashRequest,
  V7_0_0,
  writeGetTensorRequest,
  writeGraphRecomputeRequest,
  writeRequestHeader,
  writeSetTensorHashRequest,
  writeSetTensorPrefix,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import { type ClusterError, deviceCountError, RemoteMemoryError } from "../errors.ts"
import { COPY_LIMIT_BYTES, RpcConnection } from "./RpcConnection.ts"

/** Larger weights are first offered by their hash. */
const HASH_THRESHOLD_BYTES = V7_0_0.features.hashThresholdBytes
/** A graph whose inputs were larger than this belongs to a prompt: it starts at once, see below. */
const EAGER_INPUT_BYTES = 32 * 1024

const MEMORY_MAX_AGE_MS = 1000

/** So often until JavaScriptCore has compiled most of it: 34 calls of a function do. */
const WARM_UP_ROUNDS = 12
/** Large weights take room in the sockets, see `warmUp`. */
const WARM_UP_WEIGHTS = 2

/** Offsets in the shim's `remote_exchange`. */
const exchangeTensor = 0
const exchangeOther = RpcTensor.size
const exchangeSources = 2 * RpcTensor.size
const exchangeRemotePtr = 12 * RpcTensor.size
const exchangeBase = exchangeRemotePtr + 8
const exchangeSize = exchangeRemotePtr + 16
const exchangeFree = exchangeRemotePtr + 24
const exchangeTotal = exchangeRemotePtr + 32
const exchangeEnd = exchangeRemotePtr + 40

/** ggml_status */
const STATUS_SUCCESS = 0
const STATUS_FAILED = -1

const NO_LIMIT = 2n ** 64n - 1n

/** One device of one server. */
export interface RemoteDevice {
  /** Address of the ggml device. */
  readonly address: Address
  /** `RPC0`, `RPC1`, … over all servers, as llama.cpp names them. */
  readonly name: string
  readonly endpoint: string
  /** Index at its server. */
  readonly deviceIndex: number
}

interface DeviceState extends RemoteDevice {
  readonly connection: RpcConnection
  readonly connectionIndex: number
  /** uid of the graph that the server has stored for this device; 0/0 none. */
  graphUidLow: number
  graphUidHigh: number
  /** Bytes of tensor data sent since the last graph. */
  inputBytes: number
  memoryRead: { readonly freeBytes: number; readonly totalBytes: number } | undefined
  memoryReadAt: number
}

const newState = (
  device: Pick<RemoteDevice, "address" | "name" | "deviceIndex">,
  connection: RpcConnection,
  connectionIndex: number,
): DeviceState => ({
  ...device,
  endpoint: connection.endpoint,
  connection,
  connectionIndex,
  graphUidLow: 0,
  graphUidHigh: 0,
  inputBytes: 0,
  memoryRead: undefined,
  memoryReadAt: Number.NEGATIVE_INFINITY,
})

export class RemoteDevices {
  readonly devices: ReadonlyArray<RemoteDevice>
  /** Bytes of weights that need not be sent any more: sent, or found in a server's cache. */
  weightBytesDone = 0
  /** Of those, bytes that a server had in its cache. */
  weightBytesCached = 0
  /** Called after each weight; the engine reports progress from it. */
  onWeight: (() => void) | undefined
  private readonly connections: ReadonlyArray<RpcConnection>
  private readonly states: Array<DeviceState> = []
  private readonly callbacks: ReadonlyArray<JSCallback>
  private readonly exchange: Uint8Array
  private readonly exchangeView: DataView
  private readonly counts = new Uint32Array(2)
  /**
   * Servers that have no cache, or lacked a weight: they hold no part of this model, and hashing costs more than
   * sending.
   */
  private readonly coldCaches = new Set<RpcConnection>()
  private memoryFailure: RemoteMemoryError | undefined

  /**
   * Makes a ggml device for every device of every server, in the given order.
   *
   * Opened connections are taken over; `close` frees the devices, not the connections.
   */
  constructor(connections: ReadonlyArray<RpcConnection>) {
    const size = ggml().gs_remote_exchange_size()
    if (size !== exchangeEnd) {
      throw new Error(`the shim's exchange block has ${size} bytes where ${exchangeEnd} are known`)
    }
    const memory = toArrayBuffer(asPointer(ggml().gs_remote_exchange() as Address), 0, size)
    this.exchange = new Uint8Array(memory)
    this.exchangeView = new DataView(memory)
    this.callbacks = this.makeCallbacks()
    ggml().gs_remote_set_callbacks(
      BigUint64Array.from(this.callbacks, (callback) => BigInt(callback.ptr as Address)),
    )
    this.connections = connections
    connections.forEach((connection, connectionIndex) => {
      const count = connection.call(Command.DEVICE_COUNT, {})?.deviceCount
      if (count === undefined) return
      if (connection.lacksCache) this.coldCaches.add(connection)
      connection.failure = deviceCountError(connection.endpoint, count)
      if (connection.failure !== undefined) return
      for (let deviceIndex = 0; deviceIndex < count; deviceIndex++) {
        this.addDevice(connection, connectionIndex, deviceIndex)
      }
    })
    this.devices = this.states
  }

  /** From now on answers may take as long as it takes to compute. */
  beginWork(): void {
    for (const connection of this.connections) connection.beginWork()
  }

  private addDevice(connection: RpcConnection, connectionIndex: number, deviceIndex: number): void {
    const alignment = connection.call(Command.GET_ALIGNMENT, { device: deviceIndex })
    const maxSize = connection.call(Command.GET_MAX_SIZE, { device: deviceIndex })
    if (alignment === undefined || maxSize === undefined) return
    const name = `RPC${this.states.length}`
    const address = ggml().gs_remote_device_new(
      this.states.length,
      connectionIndex,
      cString(name),
      cString(connection.endpoint),
      Number(alignment.alignmentBytes),
      maxSize.maxSizeBytes === NO_LIMIT ? -1 : Number(maxSize.maxSizeBytes),
      connection.hasPlainSizes ? 1 : 0,
    ) as Address
    this.states.push(newState({ address, name, deviceIndex }, connection, connectionIndex))
  }

  /**
   * Does for nothing what a load does, with a server that is only a socket full of answers: code that runs
   * for the first time takes several times as long, and of a small model's load it is a third.
   */
  warmUp(): void {
    const [near, far] = socketPair()
    const connection = RpcConnection.over(near, { host: "warm-up", port: 0 })
    const device = this.states.length
    const { weightBytesDone } = this
    this.states.push(newState({ address: 0, name: "", deviceIndex: 0 }, connection, -1))
    try {
      const answers = Buffer.concat([
        encodeResponse(Command.ALLOC_BUFFER, { remotePtr: 1n, remoteSizeBytes: 1n }),
        encodeResponse(Command.BUFFER_GET_BASE, { basePtr: 1n }),
        encodeResponse(Command.GET_ALLOC_SIZE, { allocSizeBytes: 1n }),
      ])
      // All of it fits into the sockets (see io_socketpair): nobody reads the requests.
      for (let round = 0; round < WARM_UP_ROUNDS; round++)
        io().io_send(far, answers, answers.length)
      const weight = new Uint8Array(COPY_LIMIT_BYTES + 1)
      const data = ptr(weight) as Address
      for (let round = 0; round < WARM_UP_ROUNDS; round++) {
        this.allocBuffer(device, 1)
        for (let tensor = 0; tensor < 16; tensor++) this.setTensor(device, data, 0, 64, true)
        if (round < WARM_UP_WEIGHTS) this.setTensor(device, data, 0, weight.length, true)
        this.clearBuffer(device, 0)
        this.getAllocSize(device)
        this.freeBuffer(device)
      }
    } finally {
      this.states.pop()
      this.weightBytesDone = weightBytesDone
      connection.close()
      io().io_close(far)
    }
  }

  /** Frees the ggml devices; every model and context on them must be gone. */
  close(): void {
    for (const state of this.states) ggml().gs_remote_device_free(asPointer(state.address))
    for (const callback of this.callbacks) callback.close()
  }

  /** The first thing that went wrong on any connection, or with remote memory since `clearMemoryFailure`. */
  get failure(): ClusterError | undefined {
    for (const { failure } of this.connections) if (failure !== undefined) return failure
    return this.memoryFailure
  }

  /** Sends what has collected on all connections. */
  flush(): void {
    for (const { connection } of this.states) connection.flush()
  }

  /**
   * Waits until every server has done all that it was sent: after this a load is complete, and a server
   * that refused a part of it has been noticed.
   */
  settle(): void {
    const behind = this.connections.filter((connection) => connection.isBehind)
    for (const connection of behind) {
      connection.post(Command.DEVICE_COUNT, {})
      connection.flush()
    }
    for (const connection of behind) connection.roundTrip(Command.DEVICE_COUNT, 4)
  }

  clearMemoryFailure(): void {
    this.memoryFailure = undefined
  }

  /** Free and total memory of a device now, in bytes; undefined when its connection is broken. */
  memory(device: RemoteDevice): { freeBytes: number; totalBytes: number } | undefined {
    const state = this.states.find((candidate) => candidate.address === device.address)!
    const found = state.connection.call(Command.GET_DEVICE_MEMORY, { device: state.deviceIndex })
    return found && { freeBytes: Number(found.freeBytes), totalBytes: Number(found.totalBytes) }
  }

  private makeCallbacks(): ReadonlyArray<JSCallback> {
    const make = (
      callback: (...args: Array<never>) => unknown,
      args: ReadonlyArray<"i32" | "f64" | "ptr">,
      returns: "i32" | "void",
    ) => new JSCallback(callback, { args: [...args], returns })
    // In the order of the shim's remote_callbacks.
    return [
      make((device: number, size: number) => this.allocBuffer(device, size), ["i32", "f64"], "i32"),
      make((device: number) => this.freeBuffer(device), ["i32"], "void"),
      make(
        (device: number, value: number) => this.clearBuffer(device, value),
        ["i32", "i32"],
        "void",
      ),
      make((device: number) => this.initTensor(device), ["i32"], "void"),
      make(
        (device: number, value: number, offset: number, size: number) =>
          this.memsetTensor(device, value, offset, size),
        ["i32", "i32", "f64", "f64"],
        "void",
      ),
      make(
        (device: number, data: Address, offset: number, size: number, isWeight: number) =>
          this.setTensor(device, data, offset, size, isWeight !== 0),
        ["i32", "ptr", "f64", "f64", "i32"],
        "void",
      ),
      make(
        (device: number, data: Address, offset: number, size: number, isAsync: number) =>
          this.getTensor(device, data, offset, size, isAsync !== 0),
        ["i32", "ptr", "f64", "f64", "i32"],
        "void",
      ),
      make((device: number) => this.copyTensor(device), ["i32", "i32"], "i32"),
      make((device: number) => this.getAllocSize(device), ["i32"], "i32"),
      make((device: number) => this.getMemory(device), ["i32"], "i32"),
      make(
        (device: number, graph: Address, uidLow: number, uidHigh: number) =>
          this.graphCompute(device, graph, uidLow, uidHigh),
        ["i32", "ptr", "f64", "f64"],
        "i32",
      ),
      make((device: number) => this.states[device]!.connection.drain(), ["i32"], "void"),
    ]
  }

  private allocBuffer(device: number, sizeBytes: number): number {
    const { connection, deviceIndex, endpoint, name } = this.states[device]!
    const buffer = connection.call(Command.ALLOC_BUFFER, {
      device: deviceIndex,
      sizeBytes: BigInt(sizeBytes),
    })
    if (buffer === undefined) return 0
    if (buffer.remotePtr === 0n) {
      this.memoryFailure ??= new RemoteMemoryError({ endpoint, device: name, sizeBytes })
      return 0
    }
    const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr: buffer.remotePtr })
    if (base === undefined) return 0
    this.exchangeView.setBigUint64(exchangeRemotePtr, buffer.remotePtr, true)
    this.exchangeView.setBigUint64(exchangeBase, base.basePtr, true)
    this.exchangeView.setBigUint64(exchangeSize, buffer.remoteSizeBytes, true)
    return 1
  }

  private freeBuffer(device: number): void {
    const { connection } = this.states[device]!
    const remotePtr = this.exchangeView.getBigUint64(exchangeRemotePtr, true)
    connection.post(Command.FREE_BUFFER, { remotePtr })
    // Upstream's server drops every stored graph of the connection with any buffer (7.0.0).
    for (const state of this.states) {
      if (state.connection === connection) state.graphUidLow = state.graphUidHigh = 0
    }
  }

  private clearBuffer(device: number, value: number): void {
    const { connection } = this.states[device]!
    connection.post(Command.BUFFER_CLEAR, {
      remotePtr: this.exchangeView.getBigUint64(exchangeRemotePtr, true),
      value,
    })
    // A KV cache takes the server a while, in which the batch that follows can be prepared here.
    connection.flush()
  }

  private initTensor(device: number): void {
    const { connection } = this.states[device]!
    const offset = connection.reserve(REQUEST_HEADER_SIZE_BYTES + RpcTensor.size)
    writeRequestHeader(connection.blockView, offset, Command.INIT_TENSOR, RpcTensor.size)
    this.putTensor(connection, exchangeTensor, offset + REQUEST_HEADER_SIZE_BYTES)
  }

  private putTensor(connection: RpcConnection, exchangeOffset: number, offset: number): void {
    connection.block.set(
      this.exchange.subarray(exchangeOffset, exchangeOffset + RpcTensor.size),
      offset,
    )
  }

  private memsetTensor(device: number, value: number, offset: number, size: number): void {
    const { connection } = this.states[device]!
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + MemsetTensorRequest.size)
    writeRequestHeader(connection.blockView, at, Command.MEMSET_TENSOR, MemsetTensorRequest.size)
    const payload = at + REQUEST_HEADER_SIZE_BYTES
    const { offsets } = MemsetTensorRequest
    this.putTensor(connection, exchangeTensor, payload + offsets.tensor)
    writeU64FromNumber(connection.blockView, payload + offsets.offsetBytes, offset)
    writeU64FromNumber(connection.blockView, payload + offsets.sizeBytes, size)
    connection.block[payload + offsets.value] = value
  }

  private setTensor(
    device: number,
    data: Address,
    offset: number,
    sizeBytes: number,
    isWeight: boolean,
  ): void {
    const state = this.states[device]!
    const { connection } = state
    state.inputBytes += sizeBytes
    let cacheFlag: 0 | 1 = 0
    if (isWeight && sizeBytes > HASH_THRESHOLD_BYTES) {
      if (!this.coldCaches.has(connection)) {
        if (this.offerHash(connection, data, offset, sizeBytes)) {
          this.weightBytesCached += sizeBytes
          this.weightDone(sizeBytes)
          return
        }
        this.coldCaches.add(connection)
      }
      cacheFlag = 1
    }
    const at = connection.reserve(SET_TENSOR_PREFIX_SIZE_BYTES)
    writeSetTensorPrefix(
      connection.block,
      at,
      this.exchange,
      exchangeTensor,
      cacheFlag,
      offset,
      sizeBytes,
    )
    connection.append(data, sizeBytes)
    if (isWeight) this.weightDone(sizeBytes)
  }

  private weightDone(sizeBytes: number): void {
    this.weightBytesDone += sizeBytes
    this.onWeight?.()
  }

  /** True when the server had the data. */
  private offerHash(
    connection: RpcConnection,
    data: Address,
    offset: number,
    sizeBytes: number,
  ): boolean {
    if (connection.failure !== undefined) return false
    // The request is built from the exchange block, which the hash does not touch.
    const bytes = new Uint8Array(toArrayBuffer(asPointer(data), 0, sizeBytes))
    const hash = new Fnv1a64().update(bytes)
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + SetTensorHashRequest.size)
    writeSetTensorHashRequest(
      connection.block,
      at,
      this.exchange,
      exchangeTensor,
      offset,
      hash.digestLo(),
      hash.digestHi(),
    )
    return connection.roundTrip(Command.SET_TENSOR_HASH, 1)?.[0] === 1
  }

  private getTensor(
    device: number,
    target: Address,
    offset: number,
    sizeBytes: number,
    isAsync: boolean,
  ): void {
    const { connection } = this.states[device]!
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + GetTensorRequest.size)
    writeGetTensorRequest(connection.block, at, this.exchange, exchangeTensor, offset, sizeBytes)
    connection.expect(target, sizeBytes)
    if (!isAsync) connection.drain()
  }

  private copyTensor(device: number): number {
    const { connection } = this.states[device]!
    const size = 2 * RpcTensor.size
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + size)
    writeRequestHeader(connection.blockView, at, Command.COPY_TENSOR, size)
    this.putTensor(connection, exchangeTensor, at + REQUEST_HEADER_SIZE_BYTES)
    this.putTensor(connection, exchangeOther, at + REQUEST_HEADER_SIZE_BYTES + RpcTensor.size)
    return connection.roundTrip(Command.COPY_TENSOR, 1)?.[0] ?? 0
  }

  /** 1 when the exchange block's `size` holds the server's answer; the shim remembers it. */
  private getAllocSize(device: number): number {
    const { connection, deviceIndex } = this.states[device]!
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + GetAllocSizeRequest.size)
    const payload = at + REQUEST_HEADER_SIZE_BYTES
    const { offsets, size } = GetAllocSizeRequest
    writeRequestHeader(connection.blockView, at, Command.GET_ALLOC_SIZE, size)
    connection.blockView.setUint32(payload + offsets.device, deviceIndex, true)
    this.putTensor(connection, exchangeTensor, payload + offsets.tensor)
    connection.block.set(
      this.exchange.subarray(exchangeSources, exchangeRemotePtr),
      payload + offsets.srcs,
    )
    const answer = connection.roundTrip(Command.GET_ALLOC_SIZE, 8)
    if (answer === undefined) return 0
    const sizeBytes = readU64AsNumber(new DataView(answer.buffer, answer.byteOffset, 8), 0)
    if (sizeBytes < 0) return 0
    writeU64FromNumber(this.exchangeView, exchangeSize, sizeBytes)
    return 1
  }

  /** libllama asks several times in a row while it loads: a second-old answer does. */
  private getMemory(device: number): number {
    const state = this.states[device]!
    const now = performance.now()
    if (now - state.memoryReadAt > MEMORY_MAX_AGE_MS) {
      state.memoryRead = this.memory(state)
      state.memoryReadAt = now
    }
    const memory = state.memoryRead
    if (memory === undefined) return 0
    writeU64FromNumber(this.exchangeView, exchangeFree, memory.freeBytes)
    writeU64FromNumber(this.exchangeView, exchangeTotal, memory.totalBytes)
    return 1
  }

  private graphCompute(device: number, graph: Address, uidLow: number, uidHigh: number): number {
    const state = this.states[device]!
    const { connection, deviceIndex } = state
    const isStored =
      (uidLow !== 0 || uidHigh !== 0) &&
      state.graphUidLow === uidLow &&
      state.graphUidHigh === uidHigh
    if (isStored) {
      const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + 4)
      writeGraphRecomputeRequest(connection.block, at, deviceIndex)
    } else {
      this.sendGraph(state, graph)
      state.graphUidLow = uidLow
      state.graphUidHigh = uidHigh
    }
    // A token's graph waits for the read that follows, so that both leave in one write. A prompt's
    // starts at once: the next batch is prepared here while the server computes.
    if (state.inputBytes > EAGER_INPUT_BYTES) connection.flush()
    state.inputBytes = 0
    return connection.failure === undefined ? STATUS_SUCCESS : STATUS_FAILED
  }

  private sendGraph(state: DeviceState, graph: Address): void {
    const { connection, connectionIndex, deviceIndex } = state
    ggml().gs_graph_flatten(asPointer(graph), connectionIndex, this.counts)
    const nodeCount = this.counts[0]!
    const tensorCount = this.counts[1]!
    const idsSize = nodeCount * 8
    // GRAPH_COMPUTE: u32 device, u32 N, u64 id[N], u32 M, rpc_tensor[M]; the ids and the records go out
    // from the shim's memory.
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + 8)
    const view = connection.blockView
    writeRequestHeader(view, at, Command.GRAPH_COMPUTE, graphSizeBytes(nodeCount, tensorCount))
    view.setUint32(at + REQUEST_HEADER_SIZE_BYTES, deviceIndex, true)
    view.setUint32(at + REQUEST_HEADER_SIZE_BYTES + 4, nodeCount, true)
    connection.append(ggml().gs_flat_nodes() as Address, idsSize)
    const countAt = connection.reserve(4)
    view.setUint32(countAt, tensorCount, true)
    connection.append(ggml().gs_flat_records() as Address, tensorCount * RpcTensor.size)
  }
}
