/**
 * What ggml asks of a remote device: the callbacks behind the shim's vtables (packages/native/shim/ggml/remote_device.cpp).
 * They run under C++ frames: they never throw, and a broken connection shows in its `failure`.
 */
import { JSCallback } from "bun:ffi"
import type { Address } from "@ggml-rpc/native/bindings"
import { Command, ExtensionCommand, TOP_VALUE_BYTES } from "@ggml-rpc/protocol"
import { RemoteMemoryError } from "../errors.ts"
import { DeviceGroups } from "./DeviceGroups.ts"
import type { DeviceMemory, DeviceState } from "./device.ts"
import type { Exchange } from "./Exchange.ts"
import { computeGraph, EAGER_INPUT_BYTES, forgetGraphs } from "./graphs.ts"
import {
  appendRows,
  askAllocSize,
  askCopyTensor,
  putBufferClear,
  putFreeBuffer,
  putGetTensor,
  putGetTensorBf16,
  putGetTensorTop,
  putInitTensor,
  putMemsetTensor,
  putRelay,
  putRelayBf16,
  putSetTensor,
  putSetTensorBf16,
} from "./requests.ts"
import { askGathered } from "./support.ts"
import type { WeightUpload } from "./WeightUpload.ts"

const MEMORY_MAX_AGE_MS = 1000

/** `device` is always the index of its state; tensors lie in the exchange block. */
export class DeviceOperations {
  /** A server could not give memory. */
  memoryFailure: RemoteMemoryError | undefined
  readonly groups: DeviceGroups
  private readonly states: ReadonlyArray<DeviceState>
  private readonly exchange: Exchange
  private readonly weights: WeightUpload

  constructor(states: ReadonlyArray<DeviceState>, exchange: Exchange, weights: WeightUpload) {
    this.states = states
    this.exchange = exchange
    this.weights = weights
    this.groups = new DeviceGroups(states, exchange)
  }

  /** 1 when the exchange block holds the new buffer. */
  allocBuffer(device: number, sizeBytes: number): number {
    const { connection, deviceIndex, endpoint, name } = this.states[device]!
    const buffer = connection.call(Command.ALLOC_BUFFER, {
      device: deviceIndex,
      sizeBytes: BigInt(sizeBytes),
    })
    if (buffer === undefined) return 0
    if (buffer.remotePtr === 0n) {
      this.memoryFailure ??= new RemoteMemoryError({ endpoint, device: name, sizeBytes })
      return 0
    }
    const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr: buffer.remotePtr })
    if (base === undefined) return 0
    this.exchange.putBuffer(buffer.remotePtr, base.basePtr, buffer.remoteSizeBytes)
    return 1
  }

  freeBuffer(device: number): void {
    const { connection } = this.states[device]!
    putFreeBuffer(connection, this.exchange.remotePtr)
    forgetGraphs(this.states, connection)
  }

  clearBuffer(device: number, value: number): void {
    const { connection } = this.states[device]!
    putBufferClear(connection, this.exchange.remotePtr, value)
    // A KV cache takes the server a while, in which the batch that follows can be prepared here.
    connection.flush()
  }

  initTensor(device: number): void {
    putInitTensor(this.states[device]!.connection, this.exchange)
  }

  memsetTensor(device: number, value: number, offset: number, sizeBytes: number): void {
    putMemsetTensor(this.states[device]!.connection, this.exchange, value, offset, sizeBytes)
  }

  /** `data` are rows of `rowBytes`, `strideBytes` from the start of one to that of the next, of `sizeBytes` together. */
  setTensor(
    device: number,
    data: Address,
    offset: number,
    sizeBytes: number,
    isWeight: boolean,
    rowBytes: number,
    strideBytes: number,
  ): void {
    const state = this.states[device]!
    const { connection } = state
    state.inputBytes += sizeBytes
    if (isWeight) {
      const written = { address: data, offset, sizeBytes, rowBytes, strideBytes }
      if (this.weights.isThere(written)) return
    }
    const isCacheable = isWeight && this.weights.isCacheable(connection, sizeBytes)
    putSetTensor(connection, this.exchange.tensor, isCacheable ? 1 : 0, offset, sizeBytes)
    if (rowBytes < sizeBytes) appendRows(connection, data, sizeBytes, rowBytes, strideBytes)
    else connection.append(data, sizeBytes)
    if (isWeight) this.weights.done(sizeBytes)
  }

  /** Returns the read's ticket, for `synchronize`. */
  getTensor(
    device: number,
    target: Address,
    offset: number,
    sizeBytes: number,
    isAsync: boolean,
  ): number {
    const { connection } = this.states[device]!
    putGetTensor(connection, this.exchange.tensor, offset, sizeBytes)
    const ticket = connection.expect(target, sizeBytes)
    if (!isAsync) connection.drainTo(ticket)
    return ticket
  }

  /**
   * Reads of each of `rowCount` rows, which lie at a range, the `count` largest values, row after row; returns the read's ticket. The
   * server is one that `findsTop`.
   */
  getTop(
    device: number,
    target: Address,
    offset: number,
    sizeBytes: number,
    count: number,
    rowCount: number,
  ): number {
    const { connection } = this.states[device]!
    putGetTensorTop(connection, this.exchange.tensor, offset, sizeBytes, count)
    const answerBytes = rowCount * count * TOP_VALUE_BYTES
    return connection.expect(target, answerBytes, ExtensionCommand.GET_TENSOR_TOP)
  }

  copyTensor(device: number): number {
    return askCopyTensor(this.states[device]!.connection, this.exchange)
  }

  /** Sets all of the exchange block's tensor, which is F32, from so many bytes of bf16. */
  setBf16(device: number, data: Address, sizeBytes: number): void {
    const state = this.states[device]!
    const { connection } = state
    state.inputBytes += sizeBytes
    putSetTensorBf16(connection, this.exchange.tensor, 0, sizeBytes)
    connection.append(data, sizeBytes)
  }

  /** Waits for all of such a tensor. */
  getBf16(device: number, target: Address, sizeBytes: number): void {
    const { connection } = this.states[device]!
    putGetTensorBf16(connection, this.exchange.tensor, 0, sizeBytes)
    connection.drainTo(connection.expect(target, sizeBytes, ExtensionCommand.GET_TENSOR_BF16))
  }

  /**
   * Lets the exchange block's tensor, of `sizeBytes`, go to its other one, on another server, without a wait for it: 1 when that is
   * done. With `isBf16` both are F32, and it goes as bf16.
   */
  relayTensor(device: number, sourceDevice: number, sizeBytes: number, isBf16: boolean): number {
    const target = this.states[device]!
    const source = this.states[sourceDevice]!.connection
    const wireBytes = isBf16 ? sizeBytes / 2 : sizeBytes
    if (!target.connection.awaitRelayRoom(wireBytes)) return 0
    target.inputBytes += wireBytes
    const put = isBf16 ? putRelayBf16 : putRelay
    put(source, target.connection, this.exchange, wireBytes)
    // As graphs of prompts do: what it reads is computed next.
    if (wireBytes > EAGER_INPUT_BYTES) source.flush()
    return 1
  }

  /** 1 when the exchange block's `size` holds the server's answer; the shim remembers it. */
  getAllocSize(device: number): number {
    const { connection, deviceIndex } = this.states[device]!
    const sizeBytes = askAllocSize(connection, this.exchange, deviceIndex)
    if (sizeBytes < 0) return 0
    this.exchange.putSize(sizeBytes)
    return 1
  }

  /** libllama asks several times in a row while it loads: a second-old answer does. */
  getMemory(device: number): number {
    const state = this.states[device]!
    const now = performance.now()
    if (now - state.memoryReadAt > MEMORY_MAX_AGE_MS) {
      state.memoryRead = readMemory(state)
      state.memoryReadAt = now
    }
    const memory = state.memoryRead
    if (memory === undefined) return 0
    this.exchange.putMemory(memory.freeBytes, memory.totalBytes)
    return 1
  }

  graphCompute(device: number, graph: Address, uidLow: number, uidHigh: number): number {
    return computeGraph(this.states[device]!, graph, uidLow, uidHigh)
  }

  /** Waits for a read of the device; those that others asked for later may still be on their way. */
  synchronize(device: number, ticket: number): void {
    this.states[device]!.connection.drainTo(ticket)
  }

  /** Asks whether the device supports what the shim wants to know. */
  askSupport(device: number): void {
    askGathered([this.states[device]!])
  }
}

/** Free and total memory of a device now, in bytes; undefined when its connection is broken. */
export const readMemory = ({ connection, deviceIndex }: DeviceState): DeviceMemory | undefined => {
  const found = connection.call(Command.GET_DEVICE_MEMORY, { device: deviceIndex })
  return found && { freeBytes: Number(found.freeBytes), totalBytes: Number(found.totalBytes) }
}

/** In the order of the shim's remote_callbacks. */
export const makeCallbacks = (operations: DeviceOperations): ReadonlyArray<JSCallback> => {
  const make = (
    callback: (...args: Array<never>) => unknown,
    args: ReadonlyArray<"i32" | "f64" | "ptr">,
    returns: "i32" | "f64" | "void",
  ) => new JSCallback(callback, { args: [...args], returns })
  return [
    make(
      (device: number, sizeBytes: number) => operations.allocBuffer(device, sizeBytes),
      ["i32", "f64"],
      "i32",
    ),
    make((device: number) => operations.freeBuffer(device), ["i32"], "void"),
    make(
      (device: number, value: number) => operations.clearBuffer(device, value),
      ["i32", "i32"],
      "void",
    ),
    make((device: number) => operations.initTensor(device), ["i32"], "void"),
    make(
      (device: number, value: number, offset: number, sizeBytes: number) =>
        operations.memsetTensor(device, value, offset, sizeBytes),
      ["i32", "i32", "f64", "f64"],
      "void",
    ),
    make(
      (
        device: number,
        data: Address,
        offset: number,
        sizeBytes: number,
        isWeight: number,
        rowBytes: number,
        strideBytes: number,
      ) =>
        operations.setTensor(
          device,
          data,
          offset,
          sizeBytes,
          isWeight !== 0,
          rowBytes,
          strideBytes,
        ),
      ["i32", "ptr", "f64", "f64", "i32", "f64", "f64"],
      "void",
    ),
    make(
      (device: number, target: Address, offset: number, sizeBytes: number, isAsync: number) =>
        operations.getTensor(device, target, offset, sizeBytes, isAsync !== 0),
      ["i32", "ptr", "f64", "f64", "i32"],
      "f64",
    ),
    make((device: number) => operations.copyTensor(device), ["i32", "i32"], "i32"),
    make((device: number) => operations.getAllocSize(device), ["i32"], "i32"),
    make((device: number) => operations.getMemory(device), ["i32"], "i32"),
    make(
      (device: number, graph: Address, uidLow: number, uidHigh: number) =>
        operations.graphCompute(device, graph, uidLow, uidHigh),
      ["i32", "ptr", "f64", "f64"],
      "i32",
    ),
    make(
      (device: number, ticket: number) => operations.synchronize(device, ticket),
      ["i32", "f64"],
      "void",
    ),
    make((device: number) => operations.askSupport(device), ["i32"], "void"),
    make(
      (device: number, sourceDevice: number, sizeBytes: number, isBf16: number) =>
        operations.relayTensor(device, sourceDevice, sizeBytes, isBf16 !== 0),
      ["i32", "i32", "f64", "i32"],
      "i32",
    ),
    make(
      (device: number, data: Address, sizeBytes: number) =>
        operations.setBf16(device, data, sizeBytes),
      ["i32", "ptr", "f64"],
      "void",
    ),
    make(
      (device: number, target: Address, sizeBytes: number) =>
        operations.getBf16(device, target, sizeBytes),
      ["i32", "ptr", "f64"],
      "void",
    ),
    make((count: number) => operations.groups.add(count), ["i32"], "i32"),
    make((group: number) => operations.groups.delete(group), ["i32"], "void"),
    make(
      (group: number, elementCount: number, counting: number) =>
        operations.groups.allReduce(group, elementCount, counting),
      ["i32", "f64", "i32"],
      "void",
    ),
    make(
      (
        device: number,
        target: Address,
        offset: number,
        sizeBytes: number,
        count: number,
        rowCount: number,
      ) => operations.getTop(device, target, offset, sizeBytes, count, rowCount),
      ["i32", "ptr", "f64", "f64", "i32", "f64"],
      "f64",
    ),
  ]
}
