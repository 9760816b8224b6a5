import { ptr } from "bun:ffi"
import { asPointer, io, socketPair } from "@ggml-rpc/native/bindings"
import {
  ABSENT_TENSOR,
  Command,
  encodeExtensionRequest,
  encodeRequest,
  type MessageId,
  noConnCaps,
  REQUEST_HEADER_SIZE_BYTES,
  type RequestOf,
  type RpcTensor,
  TensorFlag,
  TYPE_SIZE,
} from "@ggml-rpc/protocol"
import { attempt } from "../cache/files.ts"
import { ClientGone } from "./errors.ts"
import { GraphCheck } from "./graph/GraphCheck.ts"
import { Buffers, FIRST_BASE, FIRST_ID } from "./memory/buffers.ts"
import type { ServedDevice } from "./memory/devices.ts"
import { noLedger } from "./memory/MemoryLedger.ts"
import { firstOffer } from "./offer.ts"
import { Session } from "./Session.ts"
import { loadedTypeId, newestSpoken } from "./spoken.ts"

/**
 * Clients to serve, and what each sends: by then JavaScriptCore has compiled and optimized what runs for every
 * token, instead of doing so (30 ms of a core) beside the first ones of a real client. Each is a slice of the work.
 */
const CLIENT_COUNT = 12
const UPLOAD_COUNT = 8
const TOKEN_COUNT = 30

/** Room for each tensor of the graph. */
const TENSOR_BYTES = 1024

/** As a client of the newest version numbers operations, which the loaded ggml may not. */
const { numbering } = newestSpoken.dialects[0]!

const encode = <C extends MessageId>(command: C, value: RequestOf<C>): Uint8Array<ArrayBuffer> =>
  encodeRequest(command, value, newestSpoken.spec)

/** A client's ids are its addresses, which lie on both sides of 2^31 in their lower halves. */
const idOf = (number: number): bigint =>
  number === 0 ? 0n : 0x7f3a_8000_0000n + BigInt(number - 16) * 0x150n

const sourcesOf = (...numbers: readonly number[]): bigint[] =>
  Array.from({ length: 10 }, (_, index) => idOf(numbers[index] ?? 0))

/** A dense tensor in the first buffer of a session. */
const tensor = (
  number: number,
  type: string,
  ne: readonly number[],
  op = "NONE",
  sources: readonly number[] = [],
  opParams: readonly number[] = [],
): RpcTensor => {
  const shape = [0, 1, 2, 3].map((dim) => ne[dim] ?? 1)
  const nb = [TYPE_SIZE[loadedTypeId(type)]!]
  for (let dim = 0; dim < 3; dim++) nb.push(nb[dim]! * shape[dim]!)
  return {
    ...ABSENT_TENSOR,
    id: idOf(number),
    type: loadedTypeId(type),
    buffer: BigInt(FIRST_ID),
    ne: shape,
    nb,
    op: numbering.ops.indexOf(op),
    opParams: Array.from({ length: 16 }, (_, index) => opParams[index] ?? 0),
    flags: op === "NONE" ? 0 : TensorFlag.COMPUTE,
    src: sourcesOf(...sources),
    data: BigInt(FIRST_BASE + TENSOR_BYTES * (number - 1)),
  }
}

/** A node that is another tensor, or a part of it. */
const view = (
  number: number,
  type: string,
  ne: readonly number[],
  op: string,
  of: number,
  offset = 0,
): RpcTensor => ({
  ...tensor(number, type, ne, op, [of]),
  data: BigInt(FIRST_BASE + TENSOR_BYTES * (of - 1) + offset),
  viewSrc: idOf(of),
  viewOffset: BigInt(offset),
})

const SILU = numbering.unaryOps.indexOf("SILU")
const SWIGLU = numbering.gluOps.indexOf("SWIGLU")

/** What every model computes, in small: inputs, then nodes. */
const tensors: readonly RpcTensor[] = [
  tensor(1, "F32", [8, 4]),
  tensor(2, "I32", [4]),
  tensor(3, "I64", [4]),
  tensor(4, "F16", [8, 16]),
  tensor(5, "F32", [8, 1, 4]),
  tensor(6, "F32", [8, 4], "RMS_NORM", [1]),
  tensor(7, "F32", [8, 4], "MUL", [6, 1]),
  tensor(8, "F32", [4, 4], "MUL_MAT", [7, 7]),
  tensor(9, "F32", [8, 1, 4], "ROPE", [5, 2], [0, 8]),
  { ...view(10, "F16", [8, 16], "SET_ROWS", 4), src: sourcesOf(7, 3, 4) },
  tensor(11, "F32", [8, 4], "GET_ROWS", [1, 2]),
  tensor(12, "F32", [8, 1, 4], "FLASH_ATTN_EXT", [1, 4, 4]),
  tensor(13, "F32", [4, 4], "SOFT_MAX", [8]),
  tensor(14, "F32", [8, 4], "ADD", [7, 11]),
  tensor(15, "F32", [8, 4], "UNARY", [14], [SILU]),
  tensor(16, "F32", [8, 4], "GLU", [15, 14], [SWIGLU]),
  tensor(17, "F16", [8, 4], "CPY", [16, 17]),
  tensor(18, "F32", [8, 4], "CONT", [16]),
  tensor(19, "F32", [8, 4], "SCALE", [18]),
  // A layer with a cache: its parts as views, a mask, weights of a quantized type.
  tensor(20, "F16", [16, 4]),
  { ...tensor(21, "Q8_0", [32, 4]), nb: [34, 34, 136, 136] },
  tensor(22, "F32", [32, 4]),
  view(23, "F16", [8, 16], "RESHAPE", 4),
  view(24, "F16", [8, 8], "VIEW", 4, 128),
  view(25, "F32", [8, 4], "PERMUTE", 7),
  view(26, "F32", [32], "TRANSPOSE", 14),
  tensor(27, "F32", [8, 1, 4], "FLASH_ATTN_EXT", [25, 23, 23, 20]),
  tensor(28, "F32", [4, 4], "MUL_MAT", [21, 22]),
  tensor(29, "F32", [8, 4], "ADD", [14, 7]),
]

const noBytes = new Uint8Array(0)

const BUFFER_BYTES = TENSOR_BYTES * tensors.length

const graph: RequestOf<typeof Command.GRAPH_COMPUTE> = {
  device: 0,
  uid: 1n,
  nodes: tensors.filter(({ src }) => src[0] !== 0n).map(({ id }) => id),
  tensors,
}

/** The graph is checked as often as it takes to get the check compiled and optimized: a twentieth of a second, in slices. */
const WARM_SLICES = 10
const CHECKS_PER_SLICE = 60

const warmCheck = (): Slice => {
  const buffers = new Buffers()
  // Where a process's memory lies; nothing is read there.
  const address = 0x7f3a_0000_0000
  const memory = { native: address, nativeBase: address + 64, sizeBytes: BUFFER_BYTES }
  buffers.add({ device: 0, ...memory, isHost: true, isOwn: true, tailBytes: 0 }, 32)
  const check = new GraphCheck(buffers, newestSpoken.dialects[0]!, {
    allowTraining: false,
    nodeLimit: Number.POSITIVE_INFINITY,
  })
  const request = encode(Command.GRAPH_COMPUTE, graph).subarray(REQUEST_HEADER_SIZE_BYTES)
  const words = new Uint32Array(request.length / 4)
  return () => {
    for (let round = 0; round < CHECKS_PER_SLICE; round++) {
      new Uint8Array(words.buffer).set(request)
      check.prepare(words, request.length, 1, 1)
    }
  }
}

/** What a small client sends: uploads, computations, their results. */
const requests = (): Uint8Array => {
  const [input] = tensors
  const result = tensors.at(-1)!
  const data = new Uint8Array(128)
  const srcs = [input!, input!, ...Array.from({ length: 8 }, () => ABSENT_TENSOR)]
  const remotePtr = BigInt(FIRST_ID)
  const question = encode(Command.GET_ALLOC_SIZE, { device: 0, tensor: result, srcs })
  const prefix = { tensor: input!, cacheFlag: 0, offsetBytes: 0n }
  const upload = encode(Command.SET_TENSOR, { ...prefix, data })
  const again = encode(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
  const read = encode(Command.GET_TENSOR, {
    tensor: result,
    offsetBytes: 0n,
    sizeBytes: 128n,
  })
  return Buffer.concat([
    encode(Command.HELLO, { connCaps: noConnCaps() }),
    encode(Command.ALLOC_BUFFER, { device: 0, sizeBytes: BigInt(BUFFER_BYTES) }),
    encode(Command.BUFFER_GET_BASE, { remotePtr }),
    encode(Command.BUFFER_CLEAR, { remotePtr, value: 0 }),
    encodeExtensionRequest("DEVICE_SUPPORTS", graph),
    ...Array.from({ length: UPLOAD_COUNT }, () => [question, upload, upload]).flat(),
    encode(Command.GRAPH_COMPUTE, graph),
    ...Array.from({ length: TOKEN_COUNT }, () => [
      upload,
      upload,
      upload,
      upload,
      again,
      read,
    ]).flat(),
    encode(Command.FREE_BUFFER, { remotePtr }),
  ])
}

/** A slice that takes so many times what it computes was waiting for its core. */
const BUSY_RATIO = 1.5

/** As long as a command takes to connect. */
const STAND_BACK_MS = 150

/** A part of the work that takes some 10 ms. */
type Slice = () => void

/**
 * Runs the code of a session before a client comes: so that it is compiled, and ggml's pages are in memory. Serves small clients
 * of its own, and computes only on a CPU: a waiting process should not hold a GPU's memory, and other devices may lack an operation.
 */
export class WarmUp {
  #slices: Slice[] = []
  /** Clients that were not served yet, and where they are. */
  readonly #pairs: SocketPair[] = []
  readonly #onFailure: (error: unknown) => void

  /**
   * Nothing of it is run yet. To be made before the sandbox, in which nobody makes sockets. `onFailure` hears what ended it, if anything
   * did: a process that could not warm up serves all the same.
   */
  constructor(devices: readonly ServedDevice[], onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure
    let check: Slice | undefined
    const checks: Slice = () => {
      check ??= warmCheck()
      check()
    }
    for (let slice = 0; slice < WARM_SLICES; slice++) this.#slices.push(checks)
    if (devices[0]?.device.type !== "CPU") return
    let stream: Uint8Array | undefined
    for (let client = 0; client < CLIENT_COUNT; client++) {
      // Without descriptors it is a smaller warm-up.
      const pair = attempt(socketPair)
      if (pair === undefined) return
      this.#pairs.push(pair)
      this.#slices.push(() => {
        stream ??= requests()
        serveOnce(devices, stream, this.#pairs[0]!)
        closePair(this.#pairs.shift()!)
      })
    }
  }

  /** Whether nothing of it is left to run. */
  get isDone(): boolean {
    return this.#slices.length === 0
  }

  /**
   * Runs what is left of it, until somebody is there who wants the process. Where others want its core it stands back between two
   * slices: a command that starts beside it is likely to be its client.
   */
  run(isWantedWithin: (ms: number) => boolean): void {
    let pauseMs = 0
    while (!this.isDone && !isWantedWithin(pauseMs)) {
      const started = performance.now()
      // Of this thread alone: the compiler's and the collector's have cores of their own, or take this one's.
      const usedBeforeMs = io().io_thread_cpu_ms()
      try {
        this.#slices.shift()!()
      } catch (error) {
        this.drop()
        this.#onFailure(error)
        return
      }
      const usedMs = io().io_thread_cpu_ms() - usedBeforeMs
      const tookMs = performance.now() - started
      pauseMs = tookMs > BUSY_RATIO * usedMs + 1 ? STAND_BACK_MS : 0
    }
  }

  /** Leaves out what was not run yet. */
  drop(): void {
    this.#slices = []
    for (const pair of this.#pairs.splice(0)) closePair(pair)
  }
}

type SocketPair = ReturnType<typeof socketPair>

const closePair = (pair: SocketPair): void => {
  for (const fd of pair) io().io_close(fd)
}

const serveOnce = (
  devices: readonly ServedDevice[],
  stream: Uint8Array,
  [client, server]: SocketPair,
): void => {
  // Less than the sockets hold (see io_socketpair): nobody reads yet.
  io().io_send(client, asPointer(ptr(stream) as number), stream.length)
  io().io_shutdown(client)
  const session = new Session({
    devices,
    cache: undefined,
    ledger: noLedger,
    directMemory: true,
    allowTraining: false,
    onRequest: undefined,
  })
  try {
    session.serve({ fd: server, offer: firstOffer, early: noBytes })
  } catch (error) {
    if (!(error instanceof ClientGone)) throw error
  }
}
