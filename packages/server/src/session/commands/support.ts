import { asPointer } from "@ggml-rpc/native/bindings"
import { askInAny } from "../graph/guessNumbering.ts"
import type { SessionState } from "../SessionState.ts"
import { buildGraph, takeGraph } from "./graph.ts"

/**
 * DEVICE_SUPPORTS: which of the nodes the device has a kernel for. What no graph may compute (see ops/), it does not support
 * either. Asks the device alone, which needs no memory of it.
 */
export const deviceSupports = (state: SessionState): void => {
  takeGraph(state)
  const { wire, graph, ggml, devices, dialects, block } = state
  const { sizeBytes } = wire
  const prepare = () => graph.prepareQuestion(block, sizeBytes, devices.length)
  const valid = askInAny(graph, dialects, block, prepare, sizeBytes)
  const { address } = devices[graph.device]!.device
  const native = buildGraph(state)
  try {
    const at = wire.answer(graph.nodeCount)
    for (const [node, isValid] of valid.entries()) wire.out.setUint8(at + node, isValid ? 1 : 0)
    ggml.gs_graph_supports(asPointer(address), asPointer(native), asPointer(wire.outAddress(at)))
  } finally {
    ggml.gs_graph_free(asPointer(native))
  }
}
