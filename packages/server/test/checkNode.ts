/** One node, as the check of graphs sees it. */
import { Command, encodeRequest, ProtocolError, type RpcTensor } from "@ggml-rpc/protocol"
import { GraphCheck } from "../src/session/graph/GraphCheck.ts"
import { Buffers } from "../src/session/memory/buffers.ts"
import { newestSpoken } from "../src/session/spoken.ts"
import { tensorsOf, VALID_NODE_BYTES, type ValidNode, validNodes } from "./validNodes.ts"

/** What the check says of a graph of one node: "" or the reason of its refusal. `change` is made to its tensors before. */
export const check = (
  node: ValidNode,
  change: (tensors: ReturnType<typeof tensorsOf>) => void = () => {},
  allowTraining = true,
): string => {
  const buffers = new Buffers()
  const memory = {
    device: 0,
    native: 4096,
    sizeBytes: 2 * VALID_NODE_BYTES,
    nativeBase: 8192,
    isHost: true,
  }
  const { id, base } = buffers.add(memory, 32)
  const tensors = tensorsOf(node, { remotePtr: BigInt(id), basePtr: BigInt(base) })
  change(tensors)
  const request = encodeRequest(Command.GRAPH_COMPUTE, {
    device: 0,
    nodes: [BigInt(tensors.length)],
    tensors,
  })
  const payload = new Uint8Array(Math.ceil((request.length - 9) / 4) * 4)
  payload.set(request.subarray(9))
  try {
    new GraphCheck(buffers, newestSpoken.dialects[0]!, allowTraining).prepare(
      new Uint32Array(payload.buffer),
      request.length - 9,
      1,
      1,
    )
    return ""
  } catch (error) {
    if (error instanceof ProtocolError) return error.reason
    throw error
  }
}

/** The valid node of an operation, the first or a later one. */
export const nodeOf = (op: string, index = 0): ValidNode =>
  validNodes.filter((candidate) => candidate.op === op)[index]!

/** Replaces fields of the tensor at a position: a source, or the result at -1. */
export const setFields = (
  tensors: RpcTensor[],
  position: number,
  fields: Partial<RpcTensor>,
): void => {
  const at = position < 0 ? tensors.length + position : position
  tensors[at] = { ...tensors[at]!, ...fields }
}

/** A valid node with some of it replaced. */
export interface Change {
  readonly result?: string
  readonly sources?: Readonly<Record<number, string | null>>
  readonly params?: Readonly<Record<number, number>>
  readonly floats?: Readonly<Record<number, number>>
}

export const changed = (op: string, index: number, change: Change): ValidNode => {
  const node = validNodes.filter((candidate) => candidate.op === op)[index]!
  const nodeSources = [...node.sources]
  for (const [source, text] of Object.entries(change.sources ?? {})) {
    if (text === null) nodeSources.length = Number(source)
    else nodeSources[Number(source)] = text
  }
  const params = [...(node.params ?? [])]
  for (const [at, value] of Object.entries(change.params ?? {})) params[Number(at)] = value
  return {
    op,
    result: change.result ?? node.result,
    sources: nodeSources,
    params: Array.from(params, (value) => value ?? 0),
    ...(node.over === undefined ? {} : { over: node.over }),
    floats: { ...node.floats, ...change.floats },
  }
}
