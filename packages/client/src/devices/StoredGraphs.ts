import { joinU64, type ProtocolFeatures, STORED_GRAPH_COUNTS } from "@ggml-rpc/protocol"

/** Graphs of a device that a server keeps by uid, before it forgets all of them. */
const LIMIT = STORED_GRAPH_COUNTS.uid

/**
 * Which graphs a server has stored for one device of one connection, so that GRAPH_RECOMPUTE names none that it lacks: it
 * would hang up. Both sides forget at the same point of the stream, which no message marks: this counts as the server does.
 *
 * A uid comes in two halves; 0 means that the graph is not to be stored.
 */
export interface StoredGraphs {
  /** Whether GRAPH_RECOMPUTE finds this graph. */
  has(uidLow: number, uidHigh: number): boolean
  /** A GRAPH_COMPUTE with this uid is the next request about the device. */
  sending(uidLow: number, uidHigh: number): void
  /** A FREE_BUFFER was sent, of whichever buffer and device. */
  freedBuffer(): void
}

/** Versions that store no graph. */
class NoGraphs implements StoredGraphs {
  has(): boolean {
    return false
  }
  sending(): void {}
  freedBuffer(): void {}
}

/** The last graph of the device. */
class LastGraph implements StoredGraphs {
  private low = 0
  private high = 0

  has(uidLow: number, uidHigh: number): boolean {
    return (uidLow !== 0 || uidHigh !== 0) && this.low === uidLow && this.high === uidHigh
  }

  sending(uidLow: number, uidHigh: number): void {
    this.low = uidLow
    this.high = uidHigh
  }

  freedBuffer(): void {
    this.low = this.high = 0
  }
}

/**
 * Graphs by uid. The server drops all of them when it has that many and one more comes, even one that it
 * has; after FREE_BUFFER it has no graph any more, but its entries still count.
 */
class GraphsByUid implements StoredGraphs {
  /** uid to the number of buffers that had been freed when it was sent last. */
  private readonly entries = new Map<number, number>()
  private freedCount = 0

  has(uidLow: number, uidHigh: number): boolean {
    return this.entries.get(joinU64(uidLow, uidHigh)) === this.freedCount
  }

  sending(uidLow: number, uidHigh: number): void {
    if (uidLow === 0 && uidHigh === 0) return
    if (this.entries.size >= LIMIT) this.entries.clear()
    // A counter of this process gives the uids: they stay below 2^53.
    this.entries.set(joinU64(uidLow, uidHigh), this.freedCount)
  }

  freedBuffer(): void {
    this.freedCount++
  }
}

export const newStoredGraphs = (kind: ProtocolFeatures["storedGraphs"]): StoredGraphs =>
  kind === "uid" ? new GraphsByUid() : kind === "last" ? new LastGraph() : new NoGraphs()
