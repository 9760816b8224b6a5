import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { refuse } from "../errors.ts"
import { nameOf } from "../ops/OpNode.ts"
import { rules } from "../ops/table.ts"

/** What `gs_graph_bad_index` writes: record, op, source, value, limit, and the value's place. */
const FIELD_COUNT = 9

/** Refuses the graph that ran last: an index of it, whose node did not run, was out of its range. */
export const refuseBadIndex = (graph: Address): never => {
  const fields = new BigInt64Array(FIELD_COUNT)
  ggml().gs_graph_bad_index(asPointer(graph), asPointer(ptr(fields) as number))
  const [record, op, source, value, limit, ...place] = fields
  const { name, indices } = rules[Number(op)]!
  const { into, dim } = indices.find((entry) => entry.source === Number(source))!
  return refuse(
    `tensors[${record}].src[${source}]`,
    `must be at least 0 and below ${limit} at [${place.join(",")}], as ${name} takes it for an index along ${nameOf(into)}'s ne[${dim}]`,
    value,
  )
}
