/** What the session's check says of a graph of one node. */
import { Command, encodeRequest, ProtocolError, type RpcTensor } from "@ggml-rpc/protocol"
import { GraphCheck } from "../src/session/graph/GraphCheck.ts"
import { Buffers } from "../src/session/memory/buffers.ts"
import { newestSpoken } from "../src/session/spoken.ts"
import { tensorsOf, VALID_NODE_BYTES, type ValidNode, validNodes } from "./validNodes.ts"

export interface CheckOptions {
  /** Works on the tensors of the node, which is the last. */
  readonly change?: (tensors: RpcTensor[]) => void
  /** Default true. */
  readonly allowTraining?: boolean
  /** Of the buffer that all tensors lie in. Nothing is ever read of it. */
  readonly bufferBytes?: number
}

/** "" or the reason of a refusal. */
export const checkNode = (node: ValidNode, options: CheckOptions = {}): string => {
  const buffers = new Buffers()
  const memory = {
    device: 0,
    native: 4096,
    sizeBytes: options.bufferBytes ?? 2 * VALID_NODE_BYTES,
    nativeBase: 8192,
    isHost: true,
    isOwn: true,
    tailBytes: 0,
  }
  const { id, base } = buffers.add(memory, 32)
  const tensors = tensorsOf(node, { remotePtr: BigInt(id), basePtr: BigInt(base) })
  options.change?.(tensors)
  const request = encodeRequest(Command.GRAPH_COMPUTE, {
    device: 0,
    nodes: [BigInt(tensors.length)],
    tensors,
  })
  const payload = new Uint8Array(Math.ceil((request.length - 9) / 4) * 4)
  payload.set(request.subarray(9))
  const check = new GraphCheck(buffers, newestSpoken.dialects[0]!, {
    allowTraining: options.allowTraining ?? true,
    nodeLimit: Number.POSITIVE_INFINITY,
  })
  try {
    check.prepare(new Uint32Array(payload.buffer), request.length - 9, 1, 1)
    return ""
  } catch (error) {
    if (error instanceof ProtocolError) return error.reason
    throw error
  }
}

/** What is another in a valid node. */
export interface Change {
  readonly result?: string
  /** `null` is none, and none behind it. */
  readonly sources?: Readonly<Record<number, string | null>>
  readonly params?: Readonly<Record<number, number>>
  readonly floats?: Readonly<Record<number, number>>
  readonly over?: number
}

/** The `index`th valid node of an operation with some of it replaced. */
export const changedNode = (op: string, index: number, change: Change): ValidNode => {
  const node = validNodes.filter((candidate) => candidate.op === op)[index]!
  const sources = [...node.sources]
  for (const [source, text] of Object.entries(change.sources ?? {})) {
    if (text === null) sources.length = Number(source)
    else sources[Number(source)] = text
  }
  const params = [...(node.params ?? [])]
  for (const [at, value] of Object.entries(change.params ?? {})) params[Number(at)] = value
  const over = change.over ?? node.over
  return {
    op,
    result: change.result ?? node.result,
    sources,
    params: Array.from(params, (value) => value ?? 0),
    floats: { ...node.floats, ...change.floats },
    ...(over === undefined ? {} : { over }),
  }
}
