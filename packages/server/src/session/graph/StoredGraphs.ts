import type { Address } from "@ggml-rpc/native/bindings"
import { joinU64 } from "@ggml-rpc/protocol"

/** A graph that can be run again without being sent. */
export interface StoredGraph {
  /** What `gs_graph_build` returned. */
  readonly native: Address
  /** Handles of the buffers that it reads or writes. */
  readonly buffers: ReadonlySet<number>
  /** Memory that it takes, at most. */
  readonly sizeBytes: number
}

/** A uid; text for one that a number cannot hold. */
export type GraphKey = number | string

/** Key of the one graph that a device keeps in versions whose clients do not number their graphs. */
export const LAST_GRAPH = 0

/** The key of a uid, in halves. Clients count from 1, so that it is a number but for those who try others. */
export const graphKey = (low: number, high: number): GraphKey => {
  const uid = joinU64(low, high)
  return uid < 0 ? `${high}:${low}` : uid
}

/** The graphs that a session's devices keep, by device and key, with the memory behind them. */
export class StoredGraphs {
  readonly #release: (native: Address) => void
  /** By device. A graph that was dropped leaves its key behind, as clients count the keys that they used. */
  readonly #byDevice: ReadonlyArray<Map<GraphKey, StoredGraph | undefined>>
  #sizeBytes = 0

  /** `release` frees a graph that is not kept any more. */
  constructor(deviceCount: number, release: (native: Address) => void) {
    this.#release = release
    this.#byDevice = Array.from({ length: deviceCount }, () => new Map())
  }

  /** Memory of all that are kept. */
  get sizeBytes(): number {
    return this.#sizeBytes
  }

  get(device: number, key: GraphKey): StoredGraph | undefined {
    return this.#byDevice[device]!.get(key)
  }

  /** Drops all graphs of a device that has `capacity` of them: one more can be put then. */
  makeRoom(device: number, capacity: number): void {
    if (this.#byDevice[device]!.size >= capacity) this.clear(device)
  }

  /** Keeps a graph, in place of the one under its key. */
  put(device: number, key: GraphKey, graph: StoredGraph): void {
    const graphs = this.#byDevice[device]!
    this.#free(graphs.get(key))
    graphs.set(key, graph)
    this.#sizeBytes += graph.sizeBytes
  }

  /** Drops the graphs that touch a buffer. Upstream drops every graph; others are as good as before. */
  dropTouching(bufferId: number): void {
    for (const graphs of this.#byDevice) {
      for (const [key, graph] of graphs) {
        if (graph === undefined || !graph.buffers.has(bufferId)) continue
        this.#free(graph)
        graphs.set(key, undefined)
      }
    }
  }

  /** Drops all graphs of a device, and their keys. */
  clear(device: number): void {
    const graphs = this.#byDevice[device]!
    for (const graph of graphs.values()) this.#free(graph)
    graphs.clear()
  }

  #free(graph: StoredGraph | undefined): void {
    if (graph === undefined) return
    this.#sizeBytes -= graph.sizeBytes
    this.#release(graph.native)
  }
}
