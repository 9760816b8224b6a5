import { ptr, toArrayBuffer } from "bun:ffi"
import { type Address, asPointer, io, takeLog } from "@ggml-rpc/native/bindings"
import { ClientGone, ComputeError, refuse } from "../errors.ts"
import { refuseBadIndex } from "../graph/badIndex.ts"
import { prepareInAny } from "../graph/guessNumbering.ts"
import { type GraphKey, graphKey, LAST_GRAPH } from "../graph/StoredGraphs.ts"
import { RECORD_WORDS, word } from "../graph/tensorWords.ts"
import type { SessionState } from "../SessionState.ts"
import { loaded } from "../spoken.ts"

const GRAPH_BLOCK_BYTES = 256 * 1024

/** Payloads, and graphs that are kept, up to this size in all need not ask whether there is memory. */
const UNASKED_BYTES = 4 * 1024 * 1024

/** What shim/ggml/repack.h keeps of a tensor of a graph, at most. */
const REPACK_BYTES = 64

/** What a built graph takes for each tensor: `ggml_tensor`, and a place in the set of its buffers. */
const TENSOR_BYTES = 336 + 48 + REPACK_BYTES

/**
 * For each node: places as node and as leaf, and up to four in the hash table; `ggml_graph_nbytes`. And one in the order
 * with index checks.
 */
const NODE_BYTES = 80

/** What an index check takes: where it is made, and a node of its own, which is a `ggml_tensor` and a place in the order. */
const INDEX_CHECK_BYTES = 32 + 336 + 8

/** `ggml_status`. */
const STATUS_SUCCESS = 0
const STATUS_ABORTED = 1

/** `kStatusBadIndex` of the shim. */
const STATUS_BAD_INDEX = 2

/** `index_check_way` of the shim: between parts of a graph, or by nodes of their own. */
const CHECK_PARTS = 0
const CHECK_NODES = 1

/** Receives the request's graph into the block. */
export const takeGraph = (state: SessionState): void => {
  const { wire } = state
  if (wire.sizeBytes > state.block.byteLength) growBlock(state, wire.sizeBytes)
  wire.take(state.blockAddress, wire.sizeBytes)
}

/**
 * Builds the prepared graph that lies in the block; the caller frees it.
 *
 * @throws {ComputeError} when there is no memory for it
 */
export const buildGraph = (state: SessionState): Address => {
  const { ggml, graph, blockAddress } = state
  const native = ggml.gs_graph_build(
    asPointer(graph.nodesAddress),
    graph.nodeCount,
    asPointer(blockAddress + graph.recordsOffset),
    graph.tensorCount,
  ) as Address
  if (native === 0 || native === null) throw outOfMemory(state)
  return native
}

export const graphCompute = (state: SessionState): void => {
  const { wire, graph, ggml, stored } = state
  takeGraph(state)
  prepare(state, wire.sizeBytes)
  state.settle(graph.device)
  const device = state.devices[graph.device]!
  if (!device.hasWorkMemoryFor(graph.workBytes, state.hostMemory)) {
    refuse(
      "nodes",
      "need more memory besides the tensors than this machine has now",
      graph.workBytes,
    )
  }
  const key = keyOf(state)
  if (key !== undefined) stored.makeRoom(graph.device, state.spoken.storedGraphCount)
  const sizeBytes =
    graph.tensorCount * TENSOR_BYTES +
    graph.nodeCount * NODE_BYTES +
    graph.indexCheckCount * INDEX_CHECK_BYTES
  if (!hasHostMemoryFor(state, sizeBytes)) {
    refuse(
      "nodes",
      `make a graph that, with ${stored.sizeBytes} bytes of graphs kept before, needs more memory than this machine has now`,
      sizeBytes,
    )
  }
  state.spend()
  const native = buildGraph(state)
  if (key === undefined) {
    try {
      ready(state, native)
      compute(state, graph.device, native, true)
    } finally {
      ggml.gs_graph_free(asPointer(native))
    }
    return
  }
  ready(state, native)
  stored.put(graph.device, key, { native, buffers: graph.usedBuffers, sizeBytes })
  compute(state, graph.device, native, !state.devicesAtOnce)
}

const prepare = (state: SessionState, size: number): void => {
  const { graph, dialects, block, devices } = state
  const { threadCount } = devices[0]!
  if (dialects.length === 1) {
    graph.prepare(block, size, devices.length, threadCount)
    return
  }
  const attempt = (): void => graph.prepare(block, size, devices.length, threadCount)
  state.dialects = prepareInAny(graph, dialects, block, attempt, size)
}

/** Under which the graph in the block is kept; undefined when it is not. */
const keyOf = ({ block, spoken, dialects }: SessionState): GraphKey | undefined => {
  const { uidOffset } = dialects[0]!.graph
  if (uidOffset < 0) return spoken.storedGraphCount > 0 ? LAST_GRAPH : undefined
  const low = block[uidOffset / 4]!
  const high = block[uidOffset / 4 + 1]!
  return low === 0 && high === 0 ? undefined : graphKey(low, high)
}

/** What is done once with a graph that was built, before it first runs. */
const ready = (state: SessionState, native: Address): void => {
  checkSupport(state, native)
  const isOnCpu = state.devices[state.graph.device]!.device.type === "CPU"
  if (state.repacks && isOnCpu && state.ggml.gs_graph_repack(asPointer(native)) === 0) {
    throw outOfMemory(state)
  }
  checkIndices(state, native)
}

const checkSupport = (state: SessionState, native: Address): void => {
  const backend = state.backend(state.graph.device)
  const unsupported = state.ggml.gs_graph_unsupported(asPointer(backend), asPointer(native))
  if (unsupported >= 0) refuseNode(state, unsupported)
}

const outOfMemory = ({ graph }: SessionState): ComputeError =>
  new ComputeError(`out of memory for a graph of ${graph.tensorCount} tensors`)

/** From here on the graph looks at the indices that its nodes use, whenever it runs. */
const checkIndices = (state: SessionState, native: Address): void => {
  const { graph, ggml, devices } = state
  if (graph.indexCheckCount === 0) return
  const way = devices[graph.device]!.device.type === "CPU" ? CHECK_NODES : CHECK_PARTS
  const checks = asPointer(graph.indexChecksAddress)
  if (ggml.gs_graph_check_indices(asPointer(native), checks, graph.indexCheckCount, way) === 0) {
    throw outOfMemory(state)
  }
}

const growBlock = (state: SessionState, size: number): void => {
  if (size > GRAPH_BLOCK_BYTES) state.spend()
  const bytes = Math.max(GRAPH_BLOCK_BYTES, 2 ** Math.ceil(Math.log2(size)))
  if (!hasHostMemoryFor(state, bytes)) {
    refuse("payload_size", "is larger than the memory of this machine allows now", size)
  }
  if (bytes <= GRAPH_BLOCK_BYTES) {
    state.block = new Uint32Array(bytes / 4)
    state.blockAddress = ptr(state.block) as number
    return
  }
  // Not of JavaScript's heap, which may have to write all of it, to clear it: a size that is announced takes no memory.
  const address = Number(io().io_reserve_memory(bytes))
  if (address === 0) refuse("payload_size", "is larger than this machine gives now", size)
  if (state.block.byteLength > GRAPH_BLOCK_BYTES) {
    io().io_release_memory(asPointer(state.blockAddress), state.block.byteLength)
  }
  state.block = new Uint32Array(toArrayBuffer(asPointer(address), 0, bytes))
  state.blockAddress = address
}

/** Whether this machine has `sizeBytes` more for graphs, besides those that are kept. */
const hasHostMemoryFor = ({ hostMemory, stored }: SessionState, sizeBytes: number): boolean =>
  stored.sizeBytes + sizeBytes <= UNASKED_BYTES || hostMemory.hasRoomFor(sizeBytes)

const refuseNode = (state: SessionState, node: number): never => {
  const { graph, block } = state
  const record = graph.nodes[node]! - 1
  const op = block[graph.recordsOffset / 4 + record * RECORD_WORDS + word.op]!
  const { name } = state.devices[graph.device]!.device
  return refuse(
    `tensors[${record}].op`,
    `is no operation that ${name} can run with these types and shapes`,
    loaded.ops[op],
  )
}

export const graphRecompute = (state: SessionState): void => {
  const device = state.deviceIndex()
  const { words } = state.wire
  const isNumbered = state.dialects[0]!.graph.uidOffset >= 0
  const key = isNumbered ? graphKey(words[1]!, words[2]!) : LAST_GRAPH
  const graph = state.stored.get(device, key)
  if (graph === undefined) {
    const which = isNumbered ? ` under uid ${key}` : ""
    refuse("device", `has no computed graph${which} that could run again`, device)
  }
  state.settle(device)
  compute(state, device, graph.native, !state.devicesAtOnce)
}

/**
 * Without `waits` the graph may still run when this returns. Others of its device have to be over; those of other devices touch no
 * memory that this one does (`GraphCheck`).
 */
const compute = (state: SessionState, device: number, graph: Address, waits: boolean): void => {
  const backend = state.backend(device)
  // Answers that wait need not wait for the graph.
  state.wire.flush()
  // Not the client's time: its first graph has all weights converted.
  if (state.ggml.gs_graph_settle(asPointer(graph)) === 0) {
    throw new ComputeError("out of memory for the weights of a graph")
  }
  const { computeMs } = state.clientLimits
  if (computeMs !== undefined) io().io_compute_begins()
  const status = state.ggml.gs_graph_compute(asPointer(backend), asPointer(graph), waits ? 1 : 0)
  if (!waits) state.noteRunning(device)
  const isOverdue = computeMs !== undefined && io().io_compute_ends() !== 0
  state.largePages.look(state.buffers)
  if (status === STATUS_SUCCESS && !isOverdue) return
  if (status === STATUS_BAD_INDEX) refuseBadIndex(graph)
  if (isOverdue) refuse("nodes", `run for longer than the ${computeMs / 1000} s that a graph may`)
  if (status === STATUS_ABORTED) throw new ClientGone("closed while its graph ran")
  const said = takeLog()
  throw new ComputeError(`ggml gave status ${status}${said === "" ? "" : `: ${said}`}`)
}
