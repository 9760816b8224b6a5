/**
 * Mutated sessions against a running server, beside a witness that computes and checks its results all
 * along. Seeded: the same seed sends the same sessions, in the same order per client.
 *
 * Sessions are built from the protocol's encoders with live handles, then damaged: bytes, whole fields,
 * sizes, the order of requests. Much of it stays well-formed, so that it gets past the first checks.
 */
import {
  Command,
  commandSpec,
  encodeExtensionRequest,
  encodeRequest,
  formatVersion,
  libraryNumbering,
  type MessageId,
  type Numbering,
  type ProtocolSpec,
  type RequestOf,
  type RpcTensor,
  TensorFlag,
  types,
} from "@ggml-rpc/protocol"
import { Random } from "./Random.ts"
import {
  f32Tensor,
  floats,
  newestOpId,
  sources,
  type TestBuffer,
  TestClient,
  toFloats,
} from "./TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "./validNodes.ts"

export interface FuzzOptions {
  /** Where the server speaks what suits a client. */
  readonly port: number
  /** More of its ports, each for one version. */
  readonly pinnedPorts?: readonly number[]
  readonly seed: number
  readonly durationMs: number
  /** Mutating clients at a time. Default 3. */
  readonly clientCount?: number
}

export interface FuzzReport {
  /** Sessions that were sent. */
  readonly sessionCount: number
  /** Requests in them. */
  readonly requestCount: number
  /** Sessions that the server ended. */
  readonly endedCount: number
  /** Versions that were spoken. */
  readonly protocols: ReadonlySet<string>
  /** Computations that the witness checked. */
  readonly witnessRounds: number
}

/** How long a session's last request may take before its client leaves. */
const PATIENCE_MS = 250

const BUFFER_BYTES = VALID_NODE_BYTES

// ---- sessions --------------------------------------------------------------------------------------

/** How a session's requests are written: its version, and the numbers of one of its builds. */
class Writer {
  readonly #spec: ProtocolSpec
  readonly #numbering: Numbering

  constructor(spec: ProtocolSpec, numbering: Numbering) {
    this.#spec = spec
    this.#numbering = numbering
  }

  /** A request, as the newest version has it when this one has none. */
  request<C extends MessageId>(command: C, value: RequestOf<C>): Uint8Array {
    const isKnown = commandSpec(command, this.#spec) !== undefined
    return isKnown ? encodeRequest(command, value, this.#spec) : encodeRequest(command, value)
  }

  /** Whether its client may use commands of ours. */
  get isToldOfOurs(): boolean {
    return this.#spec.features.helloCaps
  }

  /** A graph whose operations have the numbers of this library, or the question whether it could be computed. */
  graph(random: Random, nodes: readonly bigint[], tensors: readonly RpcTensor[]): Uint8Array {
    const uid = BigInt(random.below(4))
    const graph = {
      ...{ uid, device: 0, nodes: [...nodes] },
      tensors: tensors.map((tensor) => this.#renumbered(tensor)),
    }
    const isQuestion = random.chance(0.2) && this.#spec.features.helloCaps
    return isQuestion
      ? encodeExtensionRequest("DEVICE_SUPPORTS", graph)
      : this.request(Command.GRAPH_COMPUTE, graph)
  }

  #renumbered(tensor: RpcTensor): RpcTensor {
    const { ops, unaryOps } = this.#numbering
    const name = libraryNumbering.ops[tensor.op]!
    const op = ops.indexOf(name)
    // What this version lacks keeps its number, which is another operation there.
    if (op < 0) return tensor
    const kind = name === "UNARY" ? libraryNumbering.unaryOps[tensor.opParams[0]!] : undefined
    const wireKind = kind === undefined ? -1 : unaryOps.indexOf(kind)
    const opParams = wireKind < 0 ? tensor.opParams : [wireKind, ...tensor.opParams.slice(1)]
    return { ...tensor, op, opParams }
  }
}

const dims = [1, 2, 3, 4, 8, 16, 32, 64, 256]

/** A dense tensor of a random type and shape somewhere in the buffer. */
const randomTensor = (random: Random, id: number, buffer: TestBuffer): RpcTensor => {
  const type = random.chance(0.6) ? types[0]! : random.pick(types)
  const ne = Array.from({ length: 4 }, (_, dim) =>
    dim < 2 ? random.pick(dims) : random.pick([1, 1, 2, 4]),
  )
  ne[0] = Math.ceil(ne[0]! / type.blockSize) * type.blockSize
  const nb = [type.typeSize, (ne[0]! / type.blockSize) * type.typeSize]
  nb.push(nb[1]! * ne[1]!)
  nb.push(nb[2]! * ne[2]!)
  const offset = random.below(32) * 1024
  return { ...f32Tensor(id, buffer, offset, ne), type: type.id, nb }
}

/** A graph of random operations over random tensors: mostly wrong, but only the kernels can tell. */
const randomGraph = (random: Random, writer: Writer, buffer: TestBuffer): Uint8Array => {
  const tensors: RpcTensor[] = []
  const leafCount = 2 + random.below(4)
  for (let id = 1; id <= leafCount; id++) tensors.push(randomTensor(random, id, buffer))
  const nodes: bigint[] = []
  for (let count = 1 + random.below(4); count > 0; count--) {
    const id = tensors.length + 1
    const like = random.pick(tensors)
    const base = random.chance(0.7) ? { ...like, id: BigInt(id) } : randomTensor(random, id, buffer)
    const ids = Array.from({ length: 1 + random.below(4) }, () => 1 + random.below(id - 1))
    tensors.push({
      ...base,
      op: random.below(libraryNumbering.ops.length),
      opParams: Array.from({ length: 16 }, () =>
        random.chance(0.7) ? random.below(4) : random.below(2 ** 31),
      ),
      flags: TensorFlag.COMPUTE,
      src: sources(...ids),
      viewSrc: random.chance(0.1) ? BigInt(random.pick(ids)) : 0n,
    })
    nodes.push(BigInt(id))
  }
  return writer.graph(random, nodes, tensors)
}

/** A graph of one valid node, of any operation. */
const validNode = (random: Random, writer: Writer, buffer: TestBuffer): Uint8Array => {
  const tensors = tensorsOf(random.pick(validNodes), buffer)
  return writer.graph(random, [BigInt(tensors.length)], tensors)
}

const simpleGraph = (random: Random, writer: Writer, buffer: TestBuffer): Uint8Array => {
  const tensors = [
    f32Tensor(1, buffer, 0, [64, 4]),
    f32Tensor(2, buffer, 4096, [64, 4]),
    f32Tensor(3, buffer, 8192, [64, 4], { op: newestOpId("ADD"), flags: 16, src: sources(1, 2) }),
    f32Tensor(4, buffer, 12288, [4, 4], {
      op: newestOpId("MUL_MAT"),
      flags: 16,
      src: sources(1, 3),
    }),
    f32Tensor(5, buffer, 12288, [16], { op: newestOpId("RESHAPE"), viewSrc: 4n, src: sources(4) }),
    f32Tensor(6, buffer, 16384, [16], {
      op: newestOpId("SOFT_MAX"),
      flags: 16,
      src: sources(5),
      opParams: [0x3f80_0000, ...Array<number>(15).fill(0)],
    }),
  ]
  return writer.graph(random, [3n, 4n, 5n, 6n], tensors)
}

/** Runs within a tensor of 1024 bytes. */
const randomRuns = (random: Random) => {
  const [size, count, stride] = [1 + random.below(64), 1 + random.below(8), random.below(96)]
  return {
    offsetBytes: BigInt(random.below(288)),
    sizeBytes: BigInt(size),
    runCount: BigInt(count),
    strideBytes: BigInt(stride),
  }
}

/** A place in a group of servers, and a key that nobody else has, or a server that does not listen. */
const linkRequest = (random: Random): Uint8Array => {
  const places = { rank: random.below(2), worldSize: 2 + random.below(2), peer: random.below(3) }
  const link = { ...places, key: Uint8Array.from({ length: 16 }, () => random.below(256)) }
  return random.chance(0.5)
    ? encodeExtensionRequest("LINK_EXPECT", link)
    : encodeExtensionRequest("LINK_DIAL", { ...link, port: 1024, host: "127.0.0.1" })
}

/** Valid requests with live handles, as a client would send them. */
const validRequests = (random: Random, writer: Writer, buffer: TestBuffer): Uint8Array[] => {
  const tensor = f32Tensor(1, buffer, 0, [64, 4])
  const range = { tensor, offsetBytes: 16n, sizeBytes: 64n }
  const srcs = Array.from({ length: 10 }, () => tensor)
  const { remotePtr } = buffer
  const all: (() => Uint8Array)[] = [
    () =>
      writer.request(Command.SET_TENSOR, {
        tensor,
        cacheFlag: 0,
        offsetBytes: 0n,
        data: new Uint8Array(1024),
      }),
    () => writer.request(Command.SET_TENSOR_HASH, { tensor, offsetBytes: 0n, hash: 1n }),
    () => writer.request(Command.GET_TENSOR, range),
    () => writer.request(Command.MEMSET_TENSOR, { ...range, value: 5 }),
    () =>
      writer.request(Command.COPY_TENSOR, {
        src: tensor,
        dst: f32Tensor(2, buffer, 8192, [64, 4]),
      }),
    () => writer.request(Command.INIT_TENSOR, { tensor }),
    () => writer.request(Command.GET_ALLOC_SIZE, { device: 0, tensor, srcs }),
    () => writer.request(Command.BUFFER_CLEAR, { remotePtr, value: random.below(256) }),
    () => writer.request(Command.BUFFER_GET_BASE, { remotePtr }),
    () =>
      writer.request(Command.ALLOC_BUFFER, { device: 0, sizeBytes: BigInt(random.below(1 << 20)) }),
    () => writer.request(Command.FREE_BUFFER, { remotePtr }),
    () => writer.request(Command.GET_DEVICE_MEMORY, { device: 0 }),
    () => writer.request(Command.GET_ALIGNMENT, { device: 0 }),
    () => writer.request(Command.GET_MAX_SIZE, { device: 0 }),
    () => writer.request(Command.DEVICE_COUNT, {}),
    () => writer.request(Command.GRAPH_RECOMPUTE, { device: 0, uid: BigInt(random.below(4)) }),
    () => {
      const runs = randomRuns(random)
      const data = new Uint8Array(Number(runs.sizeBytes * runs.runCount))
      return writer.request(Command.SET_TENSOR_2D, { tensor, ...runs, data })
    },
    () => writer.request(Command.GET_TENSOR_2D, { tensor, ...randomRuns(random) }),
    () =>
      writer.request(Command.COMM_INIT, {
        ...{ device: 0, rank: random.below(3), worldSize: 2 + random.below(2) },
        // Nobody listens there: ports of the system are not dialled.
        ...{ port: random.below(1024), host: "127.0.0.1" },
      }),
    () => writer.request(Command.COMM_ALLREDUCE, { device: 0, tensor }),
    () => writer.request(Command.COMM_FREE, { device: 0 }),
    ...(writer.isToldOfOurs
      ? [
          () => linkRequest(random),
          () => encodeExtensionRequest("LINK_AWAIT", { peer: random.below(3) }),
          () => encodeExtensionRequest("LINK_FREE", {}),
          () =>
            encodeExtensionRequest(
              "OFFER_WEIGHTS",
              Array.from({ length: 1 + random.below(3) }, () => ({
                ...{ tensor, offsetBytes: BigInt(random.below(64)), hash: BigInt(random.below(4)) },
              })),
            ),
          () => encodeExtensionRequest("ALL_REDUCE", { flags: random.below(4), tensor }),
          () =>
            encodeExtensionRequest("ALL_REDUCE_DEVICES", {
              ...{ flags: random.below(4), serverCount: 1 + random.below(2), partCount: 2 },
              ...{ counting: random.below(4), places: new Uint8Array(16) },
              tensors: Array.from({ length: 1 + random.below(3) }, () => tensor),
            }),
          () =>
            encodeExtensionRequest("GET_TENSOR_BF16", {
              ...{ tensor, offsetBytes: BigInt(4 * random.below(16)) },
              sizeBytes: BigInt(4 * random.below(16)),
            }),
          () =>
            encodeExtensionRequest("SET_TENSOR_BF16", {
              ...{ tensor, offsetBytes: BigInt(4 * random.below(16)) },
              data: new Uint8Array(2 * random.below(16)),
            }),
          () =>
            encodeExtensionRequest("GET_TENSOR_TOP", {
              ...{ tensor, offsetBytes: BigInt(4 * random.below(16)) },
              ...{ sizeBytes: BigInt(4 * random.below(16)), count: random.below(4) },
            }),
        ]
      : []),
    () => simpleGraph(random, writer, buffer),
    () => simpleGraph(random, writer, buffer),
    () => randomGraph(random, writer, buffer),
    () => validNode(random, writer, buffer),
    () => validNode(random, writer, buffer),
    () => validNode(random, writer, buffer),
  ]
  return Array.from({ length: 2 + random.below(10) }, () => random.pick(all)())
}

// ---- mutations -------------------------------------------------------------------------------------

const oddNumbers = (buffer: TestBuffer): readonly bigint[] => [
  0n,
  1n,
  2n,
  16n,
  255n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
  buffer.remotePtr,
  buffer.basePtr,
  buffer.basePtr - 1n,
  buffer.basePtr + BigInt(BUFFER_BYTES),
  buffer.basePtr + BigInt(BUFFER_BYTES - 1),
]

type Mutation = (random: Random, request: Uint8Array, buffer: TestBuffer) => Uint8Array

/** Somewhere in the payload, on a word boundary of it more often than not. */
const place = (random: Random, request: Uint8Array, size: number): number => {
  const room = request.length - 9 - size
  if (room <= 0) return -1
  const at = random.below(room + 1)
  return 9 + (random.chance(0.8) ? at - (at % 4) : at)
}

const mutations: readonly Mutation[] = [
  // Bits and bytes.
  (random, request) => {
    for (let count = 1 + random.below(4); count > 0; count--) {
      request[random.below(request.length)]! ^= 1 << random.below(8)
    }
    return request
  },
  // A whole u32 or u64.
  (random, request, buffer) => {
    const at = place(random, request, 8)
    if (at < 0) return request
    const view = new DataView(request.buffer, request.byteOffset)
    const value = random.pick(oddNumbers(buffer))
    if (random.chance(0.5)) view.setUint32(at, Number(value & 0xffff_ffffn), true)
    else view.setBigUint64(at, value, true)
    return request
  },
  // A u32 a little off: shapes, strides and offsets that almost fit.
  (random, request) => {
    const at = place(random, request, 4)
    if (at < 0) return request
    const view = new DataView(request.buffer, request.byteOffset)
    view.setUint32(at, view.getUint32(at, true) + random.below(9) - 4, true)
    return request
  },
  // A part copied over another.
  (random, request) => {
    const size = random.pick([4, 8, 16, 296])
    const [from, to] = [place(random, request, size), place(random, request, size)]
    if (from >= 0 && to >= 0) request.copyWithin(to, from, from + size)
    return request
  },
  // Another payload size, with the payload as it is.
  (random, request, buffer) => {
    const size = BigInt(request.length - 9)
    const value = random.pick([size - 1n, size + 1n, size * 2n, 0n, ...oddNumbers(buffer)])
    new DataView(request.buffer, request.byteOffset).setBigUint64(
      1,
      BigInt.asUintN(64, value),
      true,
    )
    return request
  },
  // Another command.
  (random, request) => {
    request[0] = random.below(random.chance(0.9) ? 24 : 256)
    return request
  },
  // An end in the middle.
  (random, request) => request.subarray(0, random.below(request.length)),
]

const mutate: Mutation = (random, request, buffer) => {
  let mutated = request.slice()
  for (let count = 1 + random.below(3); count > 0 && mutated.length > 9; count--) {
    // The last ones end most sessions: seldom.
    const choice = random.chance(0.85) ? mutations[random.below(4)]! : random.pick(mutations)
    mutated = choice(random, mutated, buffer).slice()
  }
  return mutated
}

// ---- clients ---------------------------------------------------------------------------------------

interface Tally {
  sessionCount: number
  requestCount: number
  endedCount: number
  readonly protocols: Set<string>
}

/** On the port for all versions, or one of the others: some say HELLO, and leave for another version. */
const connect = async (options: FuzzOptions, random: Random): Promise<TestClient> => {
  const { port, pinnedPorts = [] } = options
  const [isPinned, pinned] = [random.chance(0.7), random.pick([port, ...pinnedPorts])]
  const [helloCaps, leaves] = [random.chance(0.6), random.chance(0.1)]
  const target = isPinned ? pinned : port
  // A port for one version takes one kind of HELLO.
  const client = await TestClient.meet(target, helloCaps).catch(() =>
    TestClient.meet(target, !helloCaps),
  )
  if (!leaves) return client
  client.close()
  return TestClient.meet(port, helloCaps)
}

const runSession = async (options: FuzzOptions, random: Random, tally: Tally): Promise<void> => {
  const client = await connect(options, random)
  const writer = new Writer(client.spec, random.pick(client.spec.numberings))
  tally.protocols.add(formatVersion(client.spec.version))
  const buffer = await client.allocate(BUFFER_BYTES)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: random.below(2) * 0x3c })
  const requests = validRequests(random, writer, buffer).map((request) =>
    random.chance(0.5) ? mutate(random, request, buffer) : request,
  )
  if (random.chance(0.2)) requests.push(requests[0]!)
  for (const request of requests) client.write(request)
  tally.sessionCount++
  tally.requestCount += requests.length
  // Drawn before it is known who is faster, for the next sessions to be the same.
  const [patienceMs, isReset] = [random.below(PATIENCE_MS), random.chance(0.5)]
  const isEnded = await Promise.race([
    client.closed.then(() => true),
    Bun.sleep(patienceMs).then(() => false),
  ])
  if (isEnded) tally.endedCount++
  else if (isReset) client.reset()
  else client.close()
}

/** Computes, checks and counts until it is stopped. */
const startWitness = async (port: number) => {
  const client = await TestClient.connect(port)
  const buffer = await client.allocate(BUFFER_BYTES)
  const input = f32Tensor(1, buffer, 0, [4, 4])
  const scaled = f32Tensor(2, buffer, 1024, [4, 4], {
    op: newestOpId("MUL_MAT"),
    flags: 16,
    src: sources(1, 1),
  })
  const tensors = [input, scaled]
  client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [2n], tensors })
  let rounds = 0
  let running = true
  const loop = (async () => {
    while (running) {
      const scale = rounds % 100
      client.setTensor(input, floats(scale, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3))
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
      const result = toFloats(await client.getTensor(scaled, 64))
      const expected = [scale * scale, 0, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 9]
      if (result.some((value, index) => value !== expected[index])) {
        throw new Error(`the witness computed ${result} where ${expected} is right`)
      }
      rounds++
      await Bun.sleep(2)
    }
    return rounds
  })()
  return {
    /** Rejects when a result was wrong or the server ended the connection. */
    failed: loop.then(() => new Promise<never>(() => {})),
    stop: async () => {
      running = false
      const count = await loop
      client.close()
      return count
    },
  }
}

/**
 * Runs mutated sessions for a while.
 *
 * @throws {Error} when the witness got a wrong result or lost its connection, or a new client is not served
 */
export const fuzz = async (options: FuzzOptions): Promise<FuzzReport> => {
  const { port, seed, durationMs } = options
  const witness = await startWitness(port)
  const tally: Tally = {
    ...{ sessionCount: 0, requestCount: 0, endedCount: 0 },
    protocols: new Set(),
  }
  const end = performance.now() + durationMs
  const runClient = async (number: number): Promise<void> => {
    const random = new Random(seed * 1000 + number)
    while (performance.now() < end) await runSession(options, random, tally)
  }
  const clients = Array.from({ length: options.clientCount ?? 3 }, (_, number) => runClient(number))
  await Promise.race([Promise.all(clients), witness.failed])
  return { ...tally, witnessRounds: await witness.stop() }
}
