/** Graphs of nodes without memory, for what the shim's devices make of them. */
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { ABSENT_TENSOR, opId, RpcTensor, TensorFlag, typeId } from "@ggml-rpc/protocol"

export interface Node {
  readonly op: string
  readonly type?: string
  /** Of the result and of each source; ne[256]. */
  readonly ne?: readonly [number, number, number, number]
  readonly sources?: ReadonlyArray<string>
  readonly opParams?: ReadonlyArray<number>
}

const recordOf = ({ op, type = "F32", ne = [256, 1, 1, 1], opParams = [] }: Node): RpcTensor => ({
  ...ABSENT_TENSOR,
  id: 1n,
  type: typeId(type),
  ne,
  nb: [4, 4 * ne[0], 4 * ne[0] * ne[1], 4 * ne[0] * ne[1] * ne[2]],
  op: opId(op),
  opParams: Array.from({ length: 16 }, (_, slot) => opParams[slot] ?? 0),
  flags: TensorFlag.COMPUTE,
  useCount: 1,
})

/** A graph of these nodes, each over tensors of its `sources`, while `use` looks at it. */
export const withGraph = <A>(nodes: ReadonlyArray<Node>, use: (built: Address) => A): A => {
  const records: Array<RpcTensor> = []
  const indexes = nodes.map((node) => {
    const types = node.sources ?? ["F32"]
    const sources = types.map((type) => records.push(recordOf({ ...node, op: "NONE", type })))
    const src = Array.from({ length: 10 }, (_, index) => BigInt(sources[index] ?? 0))
    return records.push({ ...recordOf(node), src })
  })
  const bytes = new Uint8Array(records.length * RpcTensor.size)
  const view = new DataView(bytes.buffer)
  for (const [index, record] of records.entries()) {
    RpcTensor.encode(record, view, index * RpcTensor.size)
  }
  const built = ggml().gs_graph_build(
    ...[Uint32Array.from(indexes), nodes.length, bytes, records.length],
  ) as Address
  try {
    return use(built)
  } finally {
    ggml().gs_graph_free(asPointer(built))
  }
}
