import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml, takeLog } from "@ggml-rpc/native/bindings"
import {
  Command,
  CopyTensorRequest,
  describeCommand,
  GetAllocSizeRequest,
  GetTensorRequest,
  HelloExtension,
  MemsetTensorRequest,
  RpcTensor,
  readU64AsNumber,
  SetTensorHashRequest,
  SetTensorPrefix,
  V7_0_0,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import { Buffers, type SessionBuffer } from "./memory/buffers.ts"
import type { Cache, CachedFile, CacheWriter } from "./cache/Cache.ts"
import type { ServedDevice } from "./memory/devices.ts"
import { GraphCheck } from "./graph/GraphCheck.ts"
import type { PromiseList } from "./memory/MemoryLedger.ts"
import {
  hexU64,
  isZeroU64,
  RECORD_WORDS,
  readU64,
  refuse,
  type Words,
  word,
  writeU64,
} from "./graph/tensorWords.ts"
import { type BufferRule, TensorCheck } from "./graph/TensorCheck.ts"
import { ClientGone, Wire } from "./Wire.ts"

/** What `ggml` said while a request failed on the server's side; the request itself was in order. */
export class ComputeError extends Error {
  readonly _tag = "ComputeError"
}

/** A graph that GRAPH_RECOMPUTE runs again. */
interface StoredGraph {
  readonly native: Address
  readonly buffers: ReadonlySet<number>
}

/** Tensor data of devices whose memory the host cannot reach passes through a block of this size. */
const STAGING_BYTES = 4 * 1024 * 1024

/** Reads up to this size join other answers in the outbox; larger ones go from where they lie. */
const SMALL_READ_BYTES = 16 * 1024

const GRAPH_BLOCK_BYTES = 256 * 1024

/** A graph of ggml takes three times its payload besides it: larger ones only when there is memory. */
const LARGE_GRAPH_BYTES = 4 * 1024 * 1024

const { offsets: setOffsets } = SetTensorPrefix
const { offsets: hashOffsets } = SetTensorHashRequest
const { offsets: getOffsets } = GetTensorRequest
const { offsets: copyOffsets } = CopyTensorRequest
const { offsets: allocSizeOffsets } = GetAllocSizeRequest
const { offsets: memsetOffsets } = MemsetTensorRequest

const STATUS_SUCCESS = 0
const STATUS_ABORTED = 1

export interface SessionOptions {
  readonly devices: readonly ServedDevice[]
  readonly cache: Cache | undefined
  /** What this server's sessions promised to their clients. */
  readonly promises: PromiseList
  /** Whether data may go straight into and out of host memory. */
  readonly directMemory: boolean
  /** How long a new connection may take to say HELLO. */
  readonly helloTimeoutMs: number
  /** Called with each request's command and payload size. */
  readonly onRequest: ((command: number, sizeBytes: number) => void) | undefined
}

/** Serves clients one after another; `serve` handles one connection from HELLO to its end. */
export class Session {
  readonly #options: SessionOptions
  readonly #devices: readonly ServedDevice[]
  readonly #cache: Cache | undefined
  readonly #ggml = ggml()
  readonly #wire = new Wire()
  readonly #buffers = new Buffers()
  readonly #tensor = new TensorCheck(this.#buffers)
  readonly #graph = new GraphCheck(this.#buffers)
  readonly #stored: Array<StoredGraph | undefined>
  #staging: Uint8Array | undefined
  #block: Words = new Uint32Array(0)
  #blockAddress: Address = 0
  readonly #noSourceBytes = new Uint8Array(RpcTensor.size * 10)
  readonly #noSources = ptr(this.#noSourceBytes) as number
  /** Whether the client left something that only the end of the process frees for sure. */
  stateful = false

  constructor(options: SessionOptions) {
    this.#options = options
    this.#devices = options.devices
    this.#cache = options.cache
    this.#stored = options.devices.map(() => undefined)
  }

  /**
   * Serves the client on `fd` until it leaves.
   *
   * @throws {ClientGone} when it left; every session ends by an error
   * @throws {ProtocolError} when it sent what it must not send
   * @throws {ComputeError} when ggml failed
   */
  serve(fd: number): never {
    const wire = this.#wire
    wire.open(fd, this.#options.helloTimeoutMs)
    this.#options.onRequest?.(wire.command, wire.sizeBytes)
    this.#hello()
    for (;;) {
      wire.next()
      this.#handle()
    }
  }

  /** Sends the answers that wait, as far as the client still takes them. */
  flush(): void {
    this.#wire.flush()
  }

  /** The command that was being handled, for a log line. */
  get commandName(): string {
    return describeCommand(this.#wire.command)
  }

  #handle(): void {
    const { command, sizeBytes } = this.#wire
    this.#options.onRequest?.(command, sizeBytes)
    switch (command) {
      case Command.ALLOC_BUFFER:
        this.#allocBuffer()
        return
      case Command.GET_ALIGNMENT:
        this.#answerNumber(this.#deviceOf().alignmentBytes)
        return
      case Command.GET_MAX_SIZE:
        this.#answerNumber(this.#deviceOf().maxSizeBytes)
        return
      case Command.BUFFER_GET_BASE:
        this.#answerNumber(this.#bufferOf().base)
        return
      case Command.FREE_BUFFER:
        this.#freeBuffer()
        return
      case Command.BUFFER_CLEAR:
        this.#clearBuffer()
        return
      case Command.SET_TENSOR:
        this.#setTensor()
        return
      case Command.SET_TENSOR_HASH:
        this.#setTensorHash()
        return
      case Command.GET_TENSOR:
        this.#getTensor()
        return
      case Command.COPY_TENSOR:
        this.#copyTensor()
        return
      case Command.GRAPH_COMPUTE:
        this.#graphCompute()
        return
      case Command.GET_DEVICE_MEMORY:
        this.#deviceMemory()
        return
      case Command.INIT_TENSOR:
        this.#initTensor()
        return
      case Command.GET_ALLOC_SIZE:
        this.#allocSize()
        return
      case Command.DEVICE_COUNT:
        this.#deviceCount()
        return
      case Command.GRAPH_RECOMPUTE:
        this.#graphRecompute()
        return
      case Command.MEMSET_TENSOR:
        this.#memsetTensor()
        return
      default:
        // Only HELLO is left: unknown commands do not come through `next`.
        refuse("command", "is only allowed once, as the first")
    }
  }

  // ---- questions -----------------------------------------------------------------------------------

  #hello(): void {
    const { major, minor, patch } = V7_0_0.version
    const at = this.#wire.answer(28)
    const { out } = this.#wire
    for (let index = 0; index < 28; index++) out.setUint8(at + index, 0)
    out.setUint8(at, major)
    out.setUint8(at + 1, minor)
    out.setUint8(at + 2, patch)
    const noCache = this.#cache === undefined ? HelloExtension.NO_CACHE : 0
    const isPlain = this.#devices.every(({ sizesArePlain }) => sizesArePlain)
    const plainSizes = isPlain ? HelloExtension.PLAIN_SIZES : 0
    out.setUint8(at + 3, HelloExtension.LEVEL | noCache | plainSizes)
  }

  #deviceCount(): void {
    const at = this.#wire.answer(4)
    this.#wire.out.setUint32(at, this.#devices.length, true)
  }

  #deviceMemory(): void {
    const { freeBytes, totalBytes } = this.#deviceOf().memory(this.#options.promises)
    const at = this.#wire.answer(16)
    writeU64FromNumber(this.#wire.out, at, Math.floor(freeBytes))
    writeU64FromNumber(this.#wire.out, at + 8, Math.floor(totalBytes))
  }

  /** The device whose index is the u32 at the start of the payload. */
  #deviceOf(): ServedDevice {
    const index = this.#wire.words[0]!
    return (
      this.#devices[index] ??
      refuse("device", `must be below the device count ${this.#devices.length}`, index)
    )
  }

  /** The buffer whose handle is the u64 at the start of the payload. */
  #bufferOf(): SessionBuffer {
    const { words } = this.#wire
    return (
      this.#buffers.find(words, 0) ??
      refuse("remote_ptr", "is no buffer of this connection", hexU64(words, 0))
    )
  }

  /** A u64 answer; a negative number stands for 2^64−1. */
  #answerNumber(value: number): void {
    const at = this.#wire.answer(8)
    const { out } = this.#wire
    if (value >= 0) {
      writeU64FromNumber(out, at, value)
      return
    }
    out.setUint32(at, 0xffff_ffff, true)
    out.setUint32(at + 4, 0xffff_ffff, true)
  }

  #answerByte(value: number): void {
    const at = this.#wire.answer(1)
    this.#wire.out.setUint8(at, value)
  }

  #allocSize(): void {
    const { words, requestAddress } = this.#wire
    const device = this.#deviceOf()
    for (let index = 0; index < 10; index++) {
      const at = (allocSizeOffsets.srcs + index * RpcTensor.size) / 4
      if (!isZeroU64(words, at)) this.#takeTensor(at, "srcs", "lenient")
    }
    this.#takeTensor(allocSizeOffsets.tensor / 4, "tensor", "lenient")
    this.#answerNumber(
      this.#ggml.gs_tensor_alloc_size(
        asPointer(device.bufferType),
        asPointer(requestAddress + allocSizeOffsets.tensor),
        asPointer(requestAddress + allocSizeOffsets.srcs),
      ),
    )
  }

  /** Checks the tensor at a word of the request, and puts native addresses into its record. */
  #takeTensor(at: number, name: string, rule: BufferRule): SessionBuffer | undefined {
    const { words } = this.#wire
    this.#tensor.check(words, at, name, rule)
    const { buffer, dataOffsetBytes } = this.#tensor
    writeU64(words, at + word.buffer, buffer?.native ?? 0)
    writeU64(words, at + word.data, buffer === undefined ? 0 : buffer.nativeBase + dataOffsetBytes)
    return buffer
  }

  // ---- buffers ------------------------------------------------------------------------------------

  #allocBuffer(): void {
    const device = this.#deviceOf()
    const index = this.#wire.words[0]!
    const sizeBytes = readU64(this.#wire.words, 1)
    const buffer = this.#tryAlloc(device, index, sizeBytes)
    const at = this.#wire.answer(16)
    writeU64FromNumber(this.#wire.out, at, buffer?.id ?? 0)
    writeU64FromNumber(this.#wire.out, at + 8, buffer?.sizeBytes ?? 0)
  }

  #tryAlloc(device: ServedDevice, index: number, sizeBytes: number): SessionBuffer | undefined {
    if (sizeBytes < 0) return undefined
    if (device.maxSizeBytes >= 0 && sizeBytes > device.maxSizeBytes) return undefined
    if (!this.#buffers.hasRoom(sizeBytes, device.alignmentBytes)) return undefined
    if (!device.hasMemoryFor(sizeBytes, this.#options.promises)) return undefined
    this.stateful = true
    const native = this.#ggml.gs_buffer_alloc(asPointer(device.bufferType), sizeBytes) as Address
    if (native === 0 || native === null) return undefined
    const pointer = asPointer(native)
    const size = this.#ggml.gs_buffer_size(pointer)
    const buffer = this.#buffers.add(
      {
        device: index,
        native,
        sizeBytes: size,
        nativeBase: size === 0 ? 0 : this.#ggml.gs_buffer_base(pointer),
        isHost: this.#options.directMemory && this.#ggml.ggml_backend_buffer_is_host(pointer),
      },
      device.alignmentBytes,
    )
    this.#options.promises.set(this.#buffers.hostBytes)
    return buffer
  }

  #freeBuffer(): void {
    const buffer = this.#bufferOf()
    // Upstream drops every graph here; those that do not touch the buffer are as good as before.
    for (let device = 0; device < this.#stored.length; device++) {
      if (this.#stored[device]?.buffers.has(buffer.id)) this.#dropGraph(device)
    }
    this.#buffers.remove(buffer)
    this.#options.promises.set(this.#buffers.hostBytes)
    this.#ggml.ggml_backend_buffer_free(asPointer(buffer.native))
  }

  #clearBuffer(): void {
    const buffer = this.#bufferOf()
    const value = this.#wire.view.getUint8(8)
    if (buffer.sizeBytes > 0) {
      this.#ggml.gs_buffer_clear(asPointer(buffer.native), value)
    }
  }

  // ---- tensors ------------------------------------------------------------------------------------

  #setTensor(): void {
    const wire = this.#wire
    const { view } = wire
    const buffer = this.#takeTensor(0, "tensor", "required")!
    const offset = readU64AsNumber(view, setOffsets.offsetBytes)
    const size = wire.sizeBytes - SetTensorPrefix.size
    this.#tensor.checkRange(offset, size, "offset", "payload_size")
    const isCached = this.#cache !== undefined && view.getUint8(setOffsets.cacheFlag) !== 0
    if (buffer.isHost) {
      const target = buffer.nativeBase + this.#tensor.dataOffsetBytes + offset
      wire.take(target, size)
      if (isCached) this.#cache?.store(target, size)
    } else if (size === wire.available(size) && !isCached) {
      const record = asPointer(wire.requestAddress)
      this.#ggml.gs_tensor_set(record, asPointer(wire.tailAddress), offset, size)
      wire.skip(size)
    } else {
      this.#setStaged(offset, size, isCached ? this.#cache?.writer() : undefined)
    }
  }

  #setStaged(offset: number, size: number, writer: CacheWriter | undefined): void {
    const wire = this.#wire
    const record = asPointer(wire.requestAddress)
    const staging = this.#stagingAddress()
    try {
      for (let done = 0; done < size; ) {
        const part = Math.min(size - done, STAGING_BYTES)
        wire.take(staging, part)
        this.#ggml.gs_tensor_set(record, asPointer(staging), offset + done, part)
        writer?.write(staging, part)
        done += part
      }
      writer?.finish()
    } finally {
      writer?.abandon()
    }
  }

  #stagingAddress(): Address {
    this.#staging ??= new Uint8Array(STAGING_BYTES)
    return ptr(this.#staging) as number
  }

  #setTensorHash(): void {
    const { words } = this.#wire
    const hash = hashOffsets.hash / 4
    const file = this.#cache?.open(words[hash + 1]!, words[hash]!)
    if (file === undefined) {
      this.#answerByte(0)
      return
    }
    try {
      this.#answerByte(this.#loadCached(file) ? 1 : 0)
    } finally {
      file.close()
    }
  }

  /** Whether the file's bytes are in the tensor now; if not, the client sends them. */
  #loadCached(file: CachedFile): boolean {
    const { words, requestAddress } = this.#wire
    const buffer = this.#takeTensor(0, "tensor", "required")!
    const offset = readU64(words, hashOffsets.offsetBytes / 4)
    this.#tensor.checkRange(offset, 0, "offset", "size")
    // A damaged file may be too long: that is not the client's fault.
    if (file.sizeBytes > this.#tensor.sizeBytes - offset) return false
    if (buffer.isHost) {
      const start = buffer.nativeBase + this.#tensor.dataOffsetBytes + offset
      return file.read(
        file.sizeBytes,
        (done) => start + done,
        () => {},
      )
    }
    const staging = this.#stagingAddress()
    return file.read(
      STAGING_BYTES,
      () => staging,
      (done, part) =>
        this.#ggml.gs_tensor_set(
          asPointer(requestAddress),
          asPointer(staging),
          offset + done,
          part,
        ),
    )
  }

  #getTensor(): void {
    const wire = this.#wire
    const { words } = wire
    const buffer = this.#takeTensor(0, "tensor", "required")!
    const offset = readU64(words, getOffsets.offsetBytes / 4)
    const size = readU64(words, getOffsets.sizeBytes / 4)
    this.#tensor.checkRange(offset, size, "offset", "size")
    const record = asPointer(wire.requestAddress)
    if (size <= SMALL_READ_BYTES) {
      const at = wire.answer(size)
      this.#ggml.gs_tensor_get(record, asPointer(wire.outAddress(at)), offset, size)
    } else if (buffer.isHost) {
      wire.answerFrom(buffer.nativeBase + this.#tensor.dataOffsetBytes + offset, size)
    } else {
      const staging = this.#stagingAddress()
      wire.answerHeader(size)
      for (let done = 0; done < size; ) {
        const part = Math.min(size - done, STAGING_BYTES)
        this.#ggml.gs_tensor_get(record, asPointer(staging), offset + done, part)
        wire.sendRaw(staging, part)
        done += part
      }
    }
  }

  #copyTensor(): void {
    this.#takeTensor(copyOffsets.src / 4, "src", "required")
    const { sizeBytes } = this.#tensor
    const target = this.#takeTensor(copyOffsets.dst / 4, "dst", "required")!
    const room = target.sizeBytes - this.#tensor.dataOffsetBytes
    if (sizeBytes > room) {
      refuse("dst.data", `has ${room} bytes to the end of its buffer, src needs`, sizeBytes)
    }
    const { requestAddress } = this.#wire
    this.#answerByte(
      this.#ggml.gs_tensor_copy(
        asPointer(requestAddress + copyOffsets.src),
        asPointer(requestAddress + copyOffsets.dst),
      ),
    )
  }

  #initTensor(): void {
    const buffer = this.#takeTensor(0, "tensor", "lenient")
    if (buffer === undefined) return
    const record = asPointer(this.#wire.requestAddress)
    const type = asPointer(this.#devices[buffer.device]!.bufferType)
    // Backends clear the padding behind the tensor: it must be inside the buffer too.
    const padded = this.#ggml.gs_tensor_alloc_size(type, record, asPointer(this.#noSources))
    const room = buffer.sizeBytes - this.#tensor.dataOffsetBytes
    if (padded > room) {
      refuse("tensor.data", `leaves ${room} bytes in its buffer, with padding it needs`, padded)
    }
    if (this.#ggml.gs_tensor_init(record) === 0) {
      throw new ComputeError("the device keeps state of its own for this tensor")
    }
  }

  #memsetTensor(): void {
    const { words, view, requestAddress } = this.#wire
    this.#takeTensor(0, "tensor", "required")
    const offset = readU64(words, memsetOffsets.offsetBytes / 4)
    const size = readU64(words, memsetOffsets.sizeBytes / 4)
    this.#tensor.checkRange(offset, size, "offset", "size")
    const value = view.getUint8(memsetOffsets.value)
    if (size === 0) return
    if (this.#ggml.gs_tensor_memset(asPointer(requestAddress), value, offset, size) === 0) {
      throw new ComputeError("the device cannot fill part of a tensor")
    }
  }

  // ---- graphs -------------------------------------------------------------------------------------

  #graphCompute(): void {
    const wire = this.#wire
    const size = wire.sizeBytes
    if (size > this.#block.byteLength) this.#growBlock(size)
    wire.take(this.#blockAddress, size)
    const graph = this.#graph
    graph.prepare(this.#block, size, this.#devices.length, this.#devices[0]!.threadCount)
    const device = this.#devices[graph.device]!
    if (!device.hasWorkMemoryFor(graph.workBytes, this.#options.promises)) {
      refuse(
        "nodes",
        "need more memory besides the tensors than this machine has now",
        graph.workBytes,
      )
    }
    this.#dropGraph(graph.device)
    this.stateful = true
    const native = this.#ggml.gs_graph_build(
      asPointer(graph.nodesAddress),
      graph.nodeCount,
      asPointer(this.#blockAddress + graph.recordsOffset),
      graph.tensorCount,
    ) as Address
    if (native === 0 || native === null) {
      throw new ComputeError(`out of memory for a graph of ${graph.tensorCount} tensors`)
    }
    const backend = this.#backendOf(graph.device)
    const unsupported = this.#ggml.gs_graph_unsupported(asPointer(backend), asPointer(native))
    if (unsupported >= 0) this.#refuseNode(unsupported)
    this.#stored[graph.device] = { native, buffers: graph.usedBuffers }
    this.#compute(graph.device, native)
  }

  #growBlock(size: number): void {
    const device = this.#devices.find(({ usesHostMemory }) => usesHostMemory) ?? this.#devices[0]!
    if (size > LARGE_GRAPH_BYTES && !device.hasMemoryFor(4 * size, this.#options.promises)) {
      refuse("payload_size", "is larger than the memory of this machine allows now", size)
    }
    const bytes = Math.max(GRAPH_BLOCK_BYTES, 2 ** Math.ceil(Math.log2(size)))
    this.#block = new Uint32Array(bytes / 4)
    this.#blockAddress = ptr(this.#block) as number
  }

  #graphRecompute(): void {
    this.#deviceOf()
    const index = this.#wire.words[0]!
    const stored = this.#stored[index]
    if (stored === undefined) {
      refuse("device", "has no computed graph that could run again", index)
    }
    this.#compute(index, stored.native)
  }

  #backendOf(device: number): Address {
    const backend = this.#devices[device]!.backend()
    if (backend === 0) throw new ComputeError("the device could not be started")
    return backend
  }

  #refuseNode(node: number): never {
    const record = this.#graph.nodes[node]! - 1
    const op = this.#block[this.#graph.recordsOffset / 4 + record * RECORD_WORDS + word.op]!
    const { name } = this.#devices[this.#graph.device]!.device
    return refuse(
      `tensors[${record}].op`,
      `is no operation that ${name} can run with these types and shapes`,
      V7_0_0.ops[op],
    )
  }

  #compute(device: number, graph: Address): void {
    const backend = this.#backendOf(device)
    // Answers that wait need not wait for the graph.
    this.#wire.flush()
    const status = this.#ggml.gs_graph_compute(asPointer(backend), asPointer(graph))
    if (status === STATUS_SUCCESS) return
    if (status === STATUS_ABORTED) throw new ClientGone("closed while its graph ran")
    const said = takeLog()
    throw new ComputeError(`ggml gave status ${status}${said === "" ? "" : `: ${said}`}`)
  }

  #dropGraph(device: number): void {
    const stored = this.#stored[device]
    if (stored === undefined) return
    this.#stored[device] = undefined
    this.#ggml.gs_graph_free(asPointer(stored.native))
  }
}
