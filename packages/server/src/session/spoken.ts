/**
 * All that depends on a version of the protocol or of ggml. No other file of the server names one: the wire, the checks
 * and the commands read it here, through the `Spoken` of the connection.
 */
import {
  AllocBufferRequest,
  BufferClearRequest,
  CONN_CAPS_SIZE_BYTES,
  CommAllReduceRequest,
  Command,
  CommInitRequest,
  CopyTensorRequest,
  commandSpec,
  DEFAULT_PAYLOAD_LIMITS,
  type Dialect,
  describeCommand,
  dialectsOf,
  ExtensionCommand,
  type ExtensionName,
  extensionCommands,
  GetAllocSizeRequest,
  GetTensorRequest,
  HelloResponse,
  libraryNumbering,
  MemsetTensorRequest,
  type MessageName,
  type Numbering,
  newest,
  type ProtocolSpec,
  SetTensor2dPrefix,
  SetTensorHashRequest,
  STORED_GRAPH_COUNTS,
  VersionResponse,
} from "@ggml-rpc/protocol"

/** Of the ggml that this process has loaded: what rules are compiled for, and what goes into native calls. */
export const loaded: Numbering = libraryNumbering

/** Name of a type of the loaded ggml. */
export const loadedTypeName = (id: number): string | undefined =>
  loaded.types.find((type) => type.id === id)?.name

/**
 * Id of an operation of the loaded ggml.
 *
 * @throws {Error} when it has none of this name
 */
export const loadedOpId = (name: string): number => {
  const id = loaded.ops.indexOf(name)
  if (id < 0) throw new Error(`ggml has no operation ${name}`)
  return id
}

/**
 * Id of a type of the loaded ggml.
 *
 * @throws {Error} when it has none of this name
 */
export const loadedTypeId = (name: string): number => {
  const type = loaded.types.find((candidate) => candidate.name === name)
  if (type === undefined) throw new Error(`ggml has no type ${name}`)
  return type.id
}

/** Where fields of requests and of HELLO's answer lie in a version, in bytes from the start of the payload; -1: nowhere. */
const offsetsOf = (dialect: Dialect, helloCaps: boolean) => {
  const { deviceField } = dialect.features
  const hasSources =
    dialect.requestBytes[Command.GET_ALLOC_SIZE]! > GetAllocSizeRequest.offsets.srcs
  // A server of one device is not told which.
  const shift = deviceField ? 0 : -4
  return {
    /** Of the device, in every request that names one. */
    device: deviceField ? 0 : -1,
    allocSizeBytes: AllocBufferRequest.offsets.sizeBytes + shift,
    bufferClear: BufferClearRequest.offsets,
    setTensor: {
      tensor: 0,
      cacheFlag: dialect.setTensorCacheFlagAt,
      offsetBytes: dialect.setTensorOffsetAt,
    },
    setTensorHash: SetTensorHashRequest.offsets,
    getTensor: GetTensorRequest.offsets,
    copyTensor: CopyTensorRequest.offsets,
    getAllocSize: {
      tensor: GetAllocSizeRequest.offsets.tensor + shift,
      srcs: hasSources ? GetAllocSizeRequest.offsets.srcs : -1,
    },
    memsetTensor: MemsetTensorRequest.offsets,
    /** Of SET_TENSOR_2D and GET_TENSOR_2D. */
    tensor2d: SetTensor2dPrefix.offsets,
    commInit: CommInitRequest.offsets,
    commAllReduce: CommAllReduceRequest.offsets,
    hello: {
      ...HelloResponse.offsets,
      extension: helloCaps ? HelloResponse.offsets.extension : -1,
    },
  } as const
}

/** Ids that a byte can hold: the tables by command have as many entries. */
export const COMMAND_LIMIT = 256

const extensions = Object.entries(extensionCommands) as [
  ExtensionName,
  (typeof extensionCommands)[ExtensionName],
][]

/** What a request's header is checked against, by command id. */
export interface RequestSizes {
  /** Payload bytes at least and at most; the most is -1 for a command that does not exist. */
  readonly minBytes: Float64Array
  readonly maxBytes: Float64Array
  /** Payload bytes before tensor data, or all; 0 for a graph, whose size is in it. */
  readonly fixedBytes: Int32Array
}

/** One version of the protocol as a session needs it: tables by command id, compiled before the first request. */
export interface Spoken extends RequestSizes {
  readonly spec: ProtocolSpec
  /**
   * What the ids in tensors may mean, the newest first: one, or one for each build that announces the version. Of several,
   * the client's graphs tell which.
   */
  readonly dialects: readonly Dialect[]
  /** Bytes of the answer, or at least so many; -1 for none. */
  readonly answerBytes: Int32Array
  /** Zeros that answer a command whose handler says nothing, as the newest version does; -1 for none. */
  readonly acknowledgementBytes: Int32Array
  readonly offsets: ReturnType<typeof offsetsOf>
  /** Graphs that a device keeps to be run again. */
  readonly storedGraphCount: number
}

const compile = (spec: ProtocolSpec, helloCaps: boolean): Spoken => {
  const minBytes = new Float64Array(COMMAND_LIMIT)
  const maxBytes = new Float64Array(COMMAND_LIMIT).fill(-1)
  const fixedBytes = new Int32Array(COMMAND_LIMIT)
  const answerBytes = new Int32Array(COMMAND_LIMIT).fill(-1)
  const acknowledgementBytes = new Int32Array(COMMAND_LIMIT).fill(-1)
  for (let command = 0; command < COMMAND_LIMIT; command++) {
    const known = commandSpec(command, spec)
    if (known === undefined) continue
    const { request, response } = known
    const limit = DEFAULT_PAYLOAD_LIMITS[describeCommand(command) as MessageName]
    minBytes[command] = request.minSizeBytes
    maxBytes[command] = Math.min(request.maxSizeBytes, limit ?? Number.MAX_SAFE_INTEGER)
    const isFixed = request.minSizeBytes === request.maxSizeBytes
    fixedBytes[command] = request.streamFrom ?? (isFixed ? request.minSizeBytes : 0)
    if (response === null) continue
    answerBytes[command] = response.minSizeBytes
    const isSilent = commandSpec(command, newest)?.response === null
    if (isSilent) acknowledgementBytes[command] = response.minSizeBytes
  }
  answerBytes[Command.HELLO] = (helloCaps ? HelloResponse : VersionResponse).size
  if (helloCaps) {
    for (const [name, { request, response, maxRequestBytes }] of extensions) {
      const command = ExtensionCommand[name]
      minBytes[command] = request.minSizeBytes
      maxBytes[command] = maxRequestBytes
      const isFixed = request.minSizeBytes === maxRequestBytes
      const streamFrom = "streamFrom" in request ? request.streamFrom : undefined
      fixedBytes[command] = streamFrom ?? (isFixed ? maxRequestBytes : 0)
      answerBytes[command] = response?.minSizeBytes ?? -1
    }
  }
  const dialects = dialectsOf(spec, loaded)
  return {
    spec,
    dialects,
    minBytes,
    maxBytes,
    fixedBytes,
    answerBytes,
    acknowledgementBytes,
    offsets: offsetsOf(dialects[0]!, helloCaps),
    storedGraphCount: STORED_GRAPH_COUNTS[spec.features.storedGraphs],
  }
}

const compiled = {
  withCaps: new Map<ProtocolSpec, Spoken>(),
  without: new Map<ProtocolSpec, Spoken>(),
}

/**
 * How to speak a version with a client whose HELLO had capabilities or not. Only the first kind can be told of what is ours
 * besides the protocol, and may use it: on a port for an old version that is a client of this project.
 */
export const spokenOf = (spec: ProtocolSpec, helloCaps: boolean): Spoken => {
  const known = helloCaps ? compiled.withCaps : compiled.without
  const found = known.get(spec)
  if (found !== undefined) return found
  const made = compile(spec, helloCaps)
  known.set(spec, made)
  return made
}

/** What a session speaks before a client has said HELLO, and then with most. */
export const newestSpoken: Spoken = spokenOf(newest, true)

/** Before HELLO: that command alone may come, in either of its sizes, which the wire looks at itself. */
export const greeting: RequestSizes = {
  minBytes: new Float64Array(COMMAND_LIMIT),
  maxBytes: new Float64Array(COMMAND_LIMIT).fill(Number.MAX_SAFE_INTEGER),
  fixedBytes: new Int32Array(COMMAND_LIMIT),
}

/** Payload bytes of HELLO from clients that have connection capabilities, and from older ones. */
export const HELLO_BYTES = CONN_CAPS_SIZE_BYTES
export const OLD_HELLO_BYTES = 0
