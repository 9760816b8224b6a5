/** Graphs on their way to a server: whole, or by a few bytes when the server has stored this very one. */
import { type Address, asPointer, ggml, io } from "@ggml-rpc/native/bindings"
import { formatVersion, opName } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { UnsupportedOpError } from "../errors.ts"
import type { DeviceState } from "./device.ts"
import { putGraphCompute, putGraphRecompute } from "./requests.ts"

/** A graph whose inputs were larger than this belongs to a prompt: it starts at once, see below. */
export const EAGER_INPUT_BYTES = 32 * 1024

/** ggml_status */
const STATUS_SUCCESS = 0
const STATUS_ABORTED = 1
const STATUS_FAILED = -1

/** Numbers of nodes and records of a flattened graph. */
const counts = new Uint32Array(2)

/** Lets the device compute a `ggml_cgraph`; returns a ggml_status. */
export const computeGraph = (
  state: DeviceState,
  graph: Address,
  uidLow: number,
  uidHigh: number,
): number => {
  // A long prompt comes in several graphs: the host may not want the rest any more.
  if (io().io_abort_requested() !== 0 && state.connection.failure === undefined)
    return STATUS_ABORTED
  const { connection, deviceIndex, storedGraphs } = state
  if (storedGraphs.has(uidLow, uidHigh)) {
    putGraphRecompute(connection, deviceIndex, uidLow, uidHigh)
  } else {
    sendGraph(state, graph, uidLow, uidHigh)
  }
  // A token's graph waits for the read that follows, so that both leave in one write. A prompt's
  // starts at once: the next batch is prepared here while the server computes.
  if (state.inputBytes > EAGER_INPUT_BYTES) connection.flush()
  state.inputBytes = 0
  return connection.failure === undefined ? STATUS_SUCCESS : STATUS_FAILED
}

const sendGraph = (state: DeviceState, graph: Address, uidLow: number, uidHigh: number): void => {
  const missing = ggml().gs_graph_flatten(asPointer(graph), asPointer(state.address), counts)
  if (missing >= 0) {
    const { connection, endpoint } = state
    const version = formatVersion(connection.dialect.version)
    connection.broken(new UnsupportedOpError({ endpoint, op: opName(missing)!, version }))
    return
  }
  // Of tensors that are cut the device may have no part.
  if (counts[0] === 0) return
  state.storedGraphs.sending(uidLow, uidHigh)
  putGraphCompute(
    state.connection,
    state.deviceIndex,
    uidLow,
    uidHigh,
    ggml().gs_flat_nodes() as Address,
    counts[0]!,
    ggml().gs_flat_records() as Address,
    counts[1]!,
  )
}

/** A server drops every stored graph of the connection with any buffer (7.0.0). */
export const forgetGraphs = (
  states: ReadonlyArray<DeviceState>,
  connection: RpcConnection,
): void => {
  for (const state of states) {
    if (state.connection === connection) state.storedGraphs.freedBuffer()
  }
}
