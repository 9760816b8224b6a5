/**
 * Which numbers a server's operations have. Some versions span builds that number them differently, and nothing in the
 * protocol tells which one answers: so a server of such a version is given tiny graphs whose node is another operation in
 * each of the builds, and whose result says which.
 *
 * An operation that a server cannot run ends it. So one is only asked for where every build in question takes the number for
 * an operation that is content with the very same tensors, and that CPU, CUDA and Vulkan backends of its time have.
 */
import {
  Command,
  commonNumbering,
  Dialect,
  formatVersion,
  type GraphComputeRequest,
  NUMBERING_PROBE,
  type Numbering,
  type OpName,
  type RpcTensor,
  TensorFlag,
  typeId,
} from "@ggml-rpc/protocol"
import { HandshakeError, ServerLostError } from "../errors.ts"
import type { RpcConnection } from "./RpcConnection.ts"

/** Operations that can be asked of the same tensors, with results that tell them apart. */
export interface ProbeFamily {
  /** Contents of the sources; all F32, of one dimension. */
  readonly sources: ReadonlyArray<ReadonlyArray<number>>
  /** Where the result goes: over the first source, or behind all of them, with so many elements. */
  readonly result: "in-place" | number
  readonly opParams: ReadonlyArray<number>
  /** What each operation makes of it. */
  readonly results: { readonly [N in OpName]?: ReadonlyArray<number> }
}

/** 1e-6 */
const EPS_F32 = 0x3586_37bd

export const probeFamilies: ReadonlyArray<ProbeFamily> = [
  {
    sources: [[1, 1, 1, 1, 1, 1, 1, 1]],
    result: 8,
    opParams: [EPS_F32],
    results: { NORM: [0, 0, 0, 0, 0, 0, 0, 0], RMS_NORM: [1, 1, 1, 1, 1, 1, 1, 1] },
  },
  {
    // Weights and gradients; then rate and decay of SGD, which are ADAMW's first momenta, the second ones, and ADAMW's
    // parameters, with a rate of 0. For GLU the first two are the halves, and the kind is 0, REGLU.
    sources: [
      [2, 2],
      [3, 3],
      [1, 0],
      [1, 1],
      [0, 0.9, 0.999, 1e-8, 0, 1, 1],
    ],
    result: "in-place",
    opParams: [0],
    results: { OPT_STEP_ADAMW: [2, 2], OPT_STEP_SGD: [-1, -1], GLU: [6, 6] },
  },
  {
    // Two elements on the right; for UPSCALE the mode is 0, the nearest.
    sources: [[1, 2, 3]],
    result: 5,
    opParams: [0, 2],
    results: {
      UPSCALE: [1, 1, 2, 2, 3],
      PAD: [1, 2, 3, 0, 0],
      PAD_REFLECT_1D: [1, 2, 3, 2, 1],
    },
  },
]

/** A number to try, and the tensors for it. */
export interface NumberingProbe {
  readonly family: ProbeFamily
  readonly op: number
}

/** What tells some of the candidates apart without a risk for any; undefined when nothing does, or need be. */
export const nextProbe = (candidates: ReadonlyArray<Numbering>): NumberingProbe | undefined => {
  const opCount = Math.max(...candidates.map(({ ops }) => ops.length))
  for (const family of probeFamilies) {
    for (let op = 0; op < opCount; op++) {
      const names = new Set(candidates.map(({ ops }) => ops[op]))
      const isSafe = [...names].every((name) => name !== undefined && name in family.results)
      if (isSafe && names.size > 1) return { family, op }
    }
  }
  return undefined
}

/** The candidates whose operation of that number gives such a result. */
export const matching = (
  candidates: ReadonlyArray<Numbering>,
  { family, op }: NumberingProbe,
  result: ArrayLike<number>,
): ReadonlyArray<Numbering> =>
  candidates.filter(({ ops }) =>
    family.results[ops[op] as OpName]!.every((value, at) => Math.abs(value - result[at]!) < 0.01),
  )

/**
 * Gives the connection the dialect of the server's build. `operationCount`: what the user says of it.
 *
 * @returns a warning, when it remains unknown: only operations with one number in all builds can be used then
 * @throws {HandshakeError} "version" when no build of the server's version has that many operations
 */
export const chooseNumbering = (
  connection: RpcConnection,
  operationCount?: number,
): string | undefined => {
  const { endpoint, dialect } = connection
  const { spec, version } = dialect
  let candidates = spec.numberings
  if (operationCount !== undefined) {
    candidates = candidates.filter(({ ops }) => ops.length === operationCount)
    if (candidates.length === 0) {
      const counts = new Set(spec.numberings.map(({ ops }) => ops.length))
      const detail = `the server speaks protocol ${formatVersion(version)}, whose builds have ${[...counts].join(", ")} operations, not ${operationCount}: correct --remote-build`
      throw new HandshakeError({ endpoint, reason: "version", detail })
    }
  }
  const found = candidates.length > 1 ? ask(connection, candidates) : candidates
  connection.dialect = new Dialect(spec, commonNumbering(found))
  if (nextProbe(found) === undefined) return undefined
  const counts = [...new Set(found.map(({ ops }) => ops.length))].join(", ")
  return `the server ${endpoint} of protocol ${formatVersion(version)} does not show how its build numbers operations, so most of them are computed here: give --remote-build ${endpoint}=N with N one of ${counts}`
}

const ask = (
  connection: RpcConnection,
  candidates: ReadonlyArray<Numbering>,
): ReadonlyArray<Numbering> => {
  let left = candidates
  for (let probe = nextProbe(left); probe !== undefined; probe = nextProbe(left)) {
    const result = compute(connection, probe)
    if (result === undefined) {
      blame(connection)
      return left
    }
    const fitting = matching(left, probe, result)
    if (fitting.length === 0) return left
    left = fitting
  }
  return left
}

/** A server that ended over a question is not asked it again, when the user says the answer. */
const blame = (connection: RpcConnection): void => {
  const { failure, endpoint } = connection
  if (failure?._tag !== "ServerLostError") return
  connection.failure = new ServerLostError({
    endpoint,
    during: "the question how it numbers operations",
    detail: `${failure.detail}; with --remote-build ${endpoint}=N, its number of operations, it is not asked`,
  })
}

const F32_BYTES = 4
/** At least any backend's alignment of tensors. */
const SLOT_BYTES = 512

/** What the server makes of the probe's node; undefined when the connection broke. */
const compute = (
  connection: RpcConnection,
  { family, op }: NumberingProbe,
): Float32Array | undefined => {
  const { sources } = family
  const sizeBytes = BigInt((sources.length + 1) * SLOT_BYTES)
  const buffer = connection.call(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
  if (buffer === undefined) return undefined
  const { remotePtr } = buffer
  const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr })
  if (base === undefined) return undefined
  const graph = graphOf({ family, op }, remotePtr, base.basePtr)
  for (const [index, values] of sources.entries()) {
    const data = new Uint8Array(Float32Array.from(values).buffer)
    const tensor = graph.tensors[index]!
    connection.post(Command.SET_TENSOR, { tensor, cacheFlag: 0, offsetBytes: 0n, data })
  }
  connection.post(Command.GRAPH_COMPUTE, graph)
  connection.expectAnswer(Command.GRAPH_COMPUTE)
  const result = graph.tensors[sources.length]!
  const resultBytes = result.ne[0]! * F32_BYTES
  connection.post(Command.GET_TENSOR, {
    tensor: result,
    offsetBytes: 0n,
    sizeBytes: BigInt(resultBytes),
  })
  const answer = connection.roundTrip(Command.GET_TENSOR, resultBytes)
  const values = answer && new Float32Array(answer.slice().buffer)
  connection.post(Command.FREE_BUFFER, { remotePtr })
  connection.expectAnswer(Command.FREE_BUFFER)
  return values
}

const graphOf = (
  { family, op }: NumberingProbe,
  buffer: bigint,
  base: bigint,
): GraphComputeRequest => {
  const { sources, result } = family
  const tensorOf = (index: number, slot: number, elementCount: number): RpcTensor => {
    const rowBytes = elementCount * F32_BYTES
    return {
      id: BigInt(index + 1),
      type: typeId("F32"),
      buffer,
      ne: [elementCount, 1, 1, 1],
      nb: [F32_BYTES, rowBytes, rowBytes, rowBytes],
      op: 0,
      opParams: new Array(16).fill(0),
      // Optimizer steps expect it of weights.
      flags: index === 0 ? TensorFlag.PARAM : 0,
      src: new Array(10).fill(0n),
      viewSrc: 0n,
      viewOffset: 0n,
      data: base + BigInt(slot * SLOT_BYTES),
      name: NUMBERING_PROBE,
      useCount: 0,
    }
  }
  const tensors = sources.map((values, index) => tensorOf(index, index, values.length))
  const isInPlace = result === "in-place"
  const elementCount = isInPlace ? sources[0]!.length : result
  const node: RpcTensor = {
    ...tensorOf(sources.length, isInPlace ? 0 : sources.length, elementCount),
    op,
    opParams: Array.from({ length: 16 }, (_, slot) => family.opParams[slot] ?? 0),
    flags: TensorFlag.COMPUTE,
    src: Array.from({ length: 10 }, (_, slot) => tensors[slot]?.id ?? 0n),
    viewSrc: isInPlace ? tensors[0]!.id : 0n,
  }
  return { device: 0, uid: 0n, nodes: [node.id], tensors: [...tensors, node] }
}
