/**
 * All that depends on a version of the protocol or of ggml. No other file of the server names one: the wire, the checks
 * and the commands read it here, through the `Spoken` of the connection.
 */
import {
  AllocBufferRequest,
  BufferClearRequest,
  CopyTensorRequest,
  commandSpec,
  DEFAULT_PAYLOAD_LIMITS,
  describeCommand,
  GetAllocSizeRequest,
  GetTensorRequest,
  type GraphLayout,
  HelloResponse,
  MemsetTensorRequest,
  type MessageName,
  type ProtocolSpec,
  parseGraphHeader,
  SetTensorHashRequest,
  SetTensorPrefix,
  type TypeInfo,
  V7_0_0,
} from "@ggml-rpc/protocol"

/** The numbers of one ggml: a name's place in a list is its id, types have theirs with them. */
export interface Numbering {
  readonly ops: readonly string[]
  /** `op_params[0]` of UNARY. */
  readonly unaryOps: readonly string[]
  /** `op_params[0]` of GLU. */
  readonly gluOps: readonly string[]
  readonly types: readonly TypeInfo[]
}

/** Of the ggml that this process has loaded: what rules are compiled for, and what goes into native calls. */
export const loaded: Numbering = V7_0_0

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

/** Where the fields of requests and of HELLO's answer lie, in bytes from the start of the payload. */
const offsets = {
  /** Of the device, in every request that names one. */
  device: 0,
  allocBuffer: AllocBufferRequest.offsets,
  bufferClear: BufferClearRequest.offsets,
  /** Where the data begins is `fixedBytes`. */
  setTensor: SetTensorPrefix.offsets,
  setTensorHash: SetTensorHashRequest.offsets,
  getTensor: GetTensorRequest.offsets,
  copyTensor: CopyTensorRequest.offsets,
  getAllocSize: GetAllocSizeRequest.offsets,
  memsetTensor: MemsetTensorRequest.offsets,
  hello: HelloResponse.offsets,
} as const

/** The same fields in any version; -1 where a version lacks one. */
export type Offsets = {
  readonly [M in keyof typeof offsets]: (typeof offsets)[M] extends number
    ? number
    : { readonly [F in keyof (typeof offsets)[M]]: number }
}

/** Ids that a byte can hold: the tables by command have as many entries. */
export const COMMAND_LIMIT = 256

/** One version of the protocol as a session needs it: tables by command id, compiled before the first request. */
export interface Spoken {
  readonly spec: ProtocolSpec
  /** What the ids in tensors mean. */
  readonly numbering: Numbering
  /** Payload bytes at least and at most; the most is -1 for a command that does not exist. */
  readonly minBytes: Float64Array
  readonly maxBytes: Float64Array
  /** Payload bytes before tensor data, or all; 0 for a graph, whose size is in it. */
  readonly fixedBytes: Int32Array
  /** Bytes of the answer, or at least so many; -1 for none. */
  readonly answerBytes: Int32Array
  /** Zeros that answer a command whose handler says nothing, as the newest version does; -1 for none. */
  readonly acknowledgementBytes: Int32Array
  readonly offsets: Offsets
  /**
   * Where the parts of a GRAPH_COMPUTE payload lie.
   *
   * @throws {ProtocolError} when its counts do not fit its size
   */
  readonly parseGraph: (view: DataView, sizeBytes: number) => GraphLayout
  /** Graphs that a device keeps to be run again. */
  readonly storedGraphCount: number
}

const compile = (spec: ProtocolSpec): Spoken => {
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
    const isSilent = commandSpec(command, V7_0_0)?.response === null
    if (isSilent) acknowledgementBytes[command] = response.minSizeBytes
  }
  return {
    spec,
    numbering: spec,
    minBytes,
    maxBytes,
    fixedBytes,
    answerBytes,
    acknowledgementBytes,
    offsets,
    parseGraph: (view, sizeBytes) => parseGraphHeader(view, sizeBytes),
    storedGraphCount: 1,
  }
}

/** What sessions speak with every client. */
export const spoken: Spoken = compile(V7_0_0)
