import { GraphFormat } from "./codec/graph.ts"
import { REQUEST_HEADER_SIZE_BYTES } from "./codec/header.ts"
import { upperHalf } from "./codec/u64.ts"
import { COMMAND_COUNT, Command, type MessageName } from "./commands.ts"
import { commandSpec, requestCodec } from "./messages.ts"
import { buildOf, libraryNumbering } from "./versions/index.ts"
import {
  GetTensorRequest,
  SetTensorHashRequest,
  SetTensorPrefix,
  UnflaggedSetTensorPrefix,
} from "./versions/layouts/tensor.ts"
import { commonNumbering, type Numbering } from "./versions/numbering.ts"
import type { ProtocolFeatures, ProtocolSpec, Version } from "./versions/spec.ts"

/** Numbers of one peer to those of the other; -1: the other has none. */
export interface NumberMap {
  /** By the loaded ggml's number: the wire's. */
  readonly toWire: Int16Array
  /** By the wire's number: the loaded ggml's. */
  readonly fromWire: Int16Array
}

/** What a request's payload is made of. */
export const PayloadKind = {
  /** The version has no such command. */
  UNKNOWN: 0,
  /** A fixed number of bytes. */
  FIXED: 1,
  /** A fixed number of bytes, then tensor data to the end. */
  DATA: 2,
  /** GRAPH_COMPUTE. */
  GRAPH: 3,
} as const

/** A parameter or source of an operation, by the loaded ggml's number of it; see `ParamLimit` and `ParamFill`. */
export interface OpParamRule<Rule> {
  readonly op: number
  readonly rule: Rule
}

const numberMap = (
  wire: readonly string[],
  local: readonly string[],
  changed: readonly string[] = [],
  narrower: readonly string[] = [],
): NumberMap => {
  const find = (names: readonly string[], name: string): number =>
    name === "" || changed.includes(name) ? -1 : names.indexOf(name)
  return {
    toWire: Int16Array.from(local, (name) => (narrower.includes(name) ? -1 : find(wire, name))),
    fromWire: Int16Array.from(wire, (name) => find(local, name)),
  }
}

const isIdentity = ({ toWire, fromWire }: NumberMap): boolean =>
  toWire.length === fromWire.length && toWire.every((id, index) => id === index)

const putU32 = (target: Uint8Array, offset: number, value: number): void => {
  target[offset] = value
  target[offset + 1] = value >>> 8
  target[offset + 2] = value >>> 16
  target[offset + 3] = value >>> 24
}

const putU64 = (target: Uint8Array, offset: number, value: number): void => {
  putU32(target, offset, value >>> 0)
  putU32(target, offset + 4, upperHalf(value))
}

/** Header; returns the offset of the payload. */
const putHeader = (
  target: Uint8Array,
  offset: number,
  command: number,
  payloadSize: number,
): number => {
  target[offset] = command
  putU64(target, offset + 1, payloadSize)
  return offset + REQUEST_HEADER_SIZE_BYTES
}

/**
 * A version as one connection speaks it: compiled once into sizes, offsets, writers and number maps, so that the loops of
 * client and server look things up by a number and know no version.
 *
 * Writers are for what a client sends for every token: straight into a block of pending bytes, without a view, a bigint or an
 * allocation. `tensor` is an encoded `RpcTensor`, 296 bytes; sizes and offsets are safe integers. Each returns the offset after
 * what it wrote; the caller guarantees the room.
 */
export class Dialect {
  readonly spec: ProtocolSpec
  readonly version: Version
  readonly features: ProtocolFeatures
  /** The peer's numbers. */
  readonly numbering: Numbering

  /** By command id: a `PayloadKind`. */
  readonly requestKinds = new Uint8Array(COMMAND_COUNT)
  /** By command id: bytes of the payload, before its data if it has some; of GRAPH_COMPUTE, those of an empty graph. */
  readonly requestBytes = new Int32Array(COMMAND_COUNT)
  /** By command id: bytes of the answer's payload, of one with data those before it; -1: not a byte comes back. */
  readonly responseBytes = new Int32Array(COMMAND_COUNT)

  readonly graph: GraphFormat
  /** Where in SET_TENSOR's payload the offset lies, and the cache flag; -1: it has none. */
  readonly setTensorOffsetAt: number
  readonly setTensorCacheFlagAt: number
  /** Payload bytes of SET_TENSOR before its data. */
  readonly setTensorPrefixBytes: number

  readonly ops: NumberMap
  readonly unaryOps: NumberMap
  readonly gluOps: NumberMap
  /** By type id: 1 when the peer knows the type. */
  readonly knowsType: Uint8Array
  /** All numbers are the same on both sides: nothing need be translated. */
  readonly isIdentity: boolean
  readonly limits: readonly OpParamRule<ProtocolFeatures["limits"][number]>[]
  readonly sourceLimits: readonly OpParamRule<ProtocolFeatures["sourceLimits"][number]>[]
  readonly fills: readonly OpParamRule<ProtocolFeatures["fills"][number]>[]

  /**
   * `numbering`: which of the version's the peer has; default: what all of them have in common. `local`: that of the ggml
   * which this process loads.
   */
  constructor(
    spec: ProtocolSpec,
    numbering: Numbering = commonNumbering(spec.numberings),
    local: Numbering = libraryNumbering,
  ) {
    this.spec = spec
    this.version = spec.version
    this.features = spec.features
    this.numbering = numbering
    for (let command = 0; command < COMMAND_COUNT; command++) {
      const entry = commandSpec(command, spec)
      this.responseBytes[command] = entry?.response?.minSizeBytes ?? -1
      if (entry === undefined) continue
      const { request } = entry
      this.requestBytes[command] = request.minSizeBytes
      this.requestKinds[command] =
        request.streamFrom !== undefined
          ? PayloadKind.DATA
          : request instanceof GraphFormat
            ? PayloadKind.GRAPH
            : PayloadKind.FIXED
    }
    this.graph = requestCodec(Command.GRAPH_COMPUTE, spec) as unknown as GraphFormat
    const hasFlag = spec.features.setTensorCacheFlag
    const prefix = hasFlag ? SetTensorPrefix : UnflaggedSetTensorPrefix
    this.setTensorPrefixBytes = prefix.size
    this.setTensorOffsetAt = prefix.offsets.offsetBytes
    this.setTensorCacheFlagAt = hasFlag ? SetTensorPrefix.offsets.cacheFlag : -1
    const { changedOps, narrowerOps, limits, sourceLimits, fills } = spec.features
    this.ops = numberMap(numbering.ops, local.ops, changedOps, narrowerOps)
    this.unaryOps = numberMap(numbering.unaryOps, local.unaryOps)
    this.gluOps = numberMap(numbering.gluOps, local.gluOps)
    this.knowsType = new Uint8Array(Math.max(...local.types.map(({ id }) => id)) + 1)
    for (const { id } of numbering.types) this.knowsType[id] = 1
    this.isIdentity = isIdentity(this.ops) && isIdentity(this.unaryOps) && isIdentity(this.gluOps)
    this.limits = limits.map((rule) => ({ op: local.ops.indexOf(rule.op), rule }))
    this.sourceLimits = sourceLimits.map((rule) => ({ op: local.ops.indexOf(rule.op), rule }))
    this.fills = fills.map((rule) => ({ op: local.ops.indexOf(rule.op), rule }))
  }

  /** Whether the version has a command. */
  has(command: MessageName): boolean {
    return this.requestKinds[Command[command]] !== PayloadKind.UNKNOWN
  }

  /** Bytes that `writeSetTensorPrefix` writes: header, tensor, cache flag, offset. The data follows. */
  get setTensorRequestBytes(): number {
    return REQUEST_HEADER_SIZE_BYTES + this.setTensorPrefixBytes
  }

  /**
   * Everything of a SET_TENSOR request but its data, which is to follow. `dataOffsetBytes` is where in the tensor the data
   * goes; the flag is dropped where the version has none.
   */
  writeSetTensorPrefix(
    target: Uint8Array,
    offset: number,
    tensor: Uint8Array,
    cacheFlag: 0 | 1,
    dataOffsetBytes: number,
    dataSizeBytes: number,
  ): number {
    const size = this.setTensorPrefixBytes
    const payload = putHeader(target, offset, Command.SET_TENSOR, size + dataSizeBytes)
    target.set(tensor, payload)
    if (this.setTensorCacheFlagAt >= 0) target[payload + this.setTensorCacheFlagAt] = cacheFlag
    putU64(target, payload + this.setTensorOffsetAt, dataOffsetBytes)
    return payload + size
  }

  /** A whole SET_TENSOR_HASH request: 321 bytes. The hash comes in two halves, as `Fnv1a64` gives it. */
  writeSetTensorHash(
    target: Uint8Array,
    offset: number,
    tensor: Uint8Array,
    dataOffsetBytes: number,
    hashLow: number,
    hashHigh: number,
  ): number {
    const { offsets, size } = SetTensorHashRequest
    const payload = putHeader(target, offset, Command.SET_TENSOR_HASH, size)
    target.set(tensor, payload)
    putU64(target, payload + offsets.offsetBytes, dataOffsetBytes)
    putU32(target, payload + offsets.hash, hashLow)
    putU32(target, payload + offsets.hash + 4, hashHigh)
    return payload + size
  }

  /** A whole GET_TENSOR request: 321 bytes. */
  writeGetTensor(
    target: Uint8Array,
    offset: number,
    tensor: Uint8Array,
    dataOffsetBytes: number,
    dataSizeBytes: number,
  ): number {
    const { offsets, size } = GetTensorRequest
    const payload = putHeader(target, offset, Command.GET_TENSOR, size)
    target.set(tensor, payload)
    putU64(target, payload + offsets.offsetBytes, dataOffsetBytes)
    putU64(target, payload + offsets.sizeBytes, dataSizeBytes)
    return payload + size
  }

  /** Bytes of a GRAPH_RECOMPUTE request, header included. */
  get graphRecomputeBytes(): number {
    return REQUEST_HEADER_SIZE_BYTES + this.requestBytes[Command.GRAPH_RECOMPUTE]!
  }

  /** A whole GRAPH_RECOMPUTE request; the uid, in halves, is dropped where the version has none. */
  writeGraphRecompute(
    target: Uint8Array,
    offset: number,
    device: number,
    uidLow: number,
    uidHigh: number,
  ): number {
    const size = this.requestBytes[Command.GRAPH_RECOMPUTE]!
    const payload = putHeader(target, offset, Command.GRAPH_RECOMPUTE, size)
    putU32(target, payload, device)
    if (this.graph.uidOffset >= 0) {
      putU32(target, payload + 4, uidLow)
      putU32(target, payload + 8, uidHigh)
    }
    return payload + size
  }
}

/**
 * A version as it may be spoken with a peer of which no more is known: a dialect for each numbering of its builds, the newest
 * first; of a version that stands for several patches, each as its own patch is. `local`: as of `Dialect`.
 */
export const dialectsOf = (spec: ProtocolSpec, local?: Numbering): readonly Dialect[] =>
  spec.numberings
    .toReversed()
    .map((numbering) => new Dialect(buildOf(spec, numbering), numbering, local))
