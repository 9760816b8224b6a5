/**
 * The seam between ggml's tensor split and what adds up its partial sums.
 *
 * ggml's meta device (ggml-backend-meta.cpp, v0.5.0) lets every device of a group compute its part of a graph up to a tensor of
 * which each has a partial sum, then asks for one all-reduce, and goes on with the next part. It waits for nothing in between: an
 * all-reduce is a place in the stream of each connection's requests, behind the graph that makes the partial sum and before the
 * one that reads the whole.
 */
import type { DeviceState } from "./device.ts"
import type { Exchange } from "./Exchange.ts"

/** A group of devices; all are ours, one context has it, and no two run at a time. */
export interface Group {
  /** In the order in which ggml adds up. Two at least; of one connection or of several, also several of one. */
  readonly members: ReadonlyArray<DeviceState>
  readonly exchange: Exchange
  /** Partial sums travel as bf16 where servers know it. */
  readonly isBf16: boolean
}

export interface AllReduce {
  /**
   * Requests put into the connections' blocks after this, and reads asked for after this, find in each member's tensor the
   * sum of all partial sums that count: F32, added up in the order of the shim's `gs_add_parts`, the same bits everywhere. Where it is
   * bf16 that travels, what is rounded is rounded for all.
   *
   * Member i's tensor is the record `exchange.parts[i]`, valid until this returns; its `elementCount` F32 values are
   * contiguous. Bit i of `counting` is set where its values count; else they are undefined, and zero is meant.
   *
   * May wait for answers (`RpcConnection.drainTo`) or just put requests into the blocks. Never throws: a C++ frame is below.
   * What goes wrong breaks a connection (`RpcConnection.broken`), and the next graph on it fails.
   */
  reduce(elementCount: number, counting: number): void
  /** Does now what `reduce` would have to do at its first time; why the sums take a longer way than they could, if so. */
  prepare?(): string | undefined
  /** The context is gone, and has nothing on its way any more. Connections may be broken. */
  close(): void
}

/**
 * Makes the all-reduce of a group, or undefined where it cannot be done this way. Called once a context, also for contexts that
 * are only measured and compute nothing: what costs a round trip waits for the first `reduce`.
 */
export type AllReduceMaker = (group: Group) => AllReduce | undefined
