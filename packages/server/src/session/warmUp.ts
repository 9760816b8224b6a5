import { ptr } from "bun:ffi"
import { asPointer, io, socketPair } from "@ggml-rpc/native/bindings"
import {
  ABSENT_TENSOR,
  Command,
  encodeRequest,
  noConnCaps,
  opId,
  type RpcTensor,
  TensorFlag,
} from "@ggml-rpc/protocol"
import { FIRST_BASE, FIRST_ID } from "./buffers.ts"
import type { ServedDevice } from "./devices.ts"
import { Session } from "./Session.ts"
import { ClientGone } from "./wire.ts"

const BUFFER_BYTES = 4096

const tensor = (id: number, fields: Partial<RpcTensor>): RpcTensor => ({
  ...ABSENT_TENSOR,
  id: BigInt(id),
  buffer: BigInt(FIRST_ID),
  ne: [4, 1, 1, 1],
  nb: [4, 16, 16, 16],
  data: BigInt(FIRST_BASE + 64 * id),
  ...fields,
})

/** What a small client sends: an upload, a computation, its result. */
const requests = (): Uint8Array => {
  const input = tensor(1, {})
  const sum = tensor(2, {
    op: opId("ADD"),
    flags: TensorFlag.COMPUTE,
    src: [1n, 1n, 0n, 0n, 0n, 0n, 0n, 0n, 0n, 0n],
  })
  const data = new Uint8Array(16)
  const srcs = [input, input, ...Array.from({ length: 8 }, () => ABSENT_TENSOR)]
  const remotePtr = BigInt(FIRST_ID)
  return Buffer.concat([
    encodeRequest(Command.HELLO, { connCaps: noConnCaps() }),
    encodeRequest(Command.ALLOC_BUFFER, { device: 0, sizeBytes: BigInt(BUFFER_BYTES) }),
    encodeRequest(Command.BUFFER_GET_BASE, { remotePtr }),
    encodeRequest(Command.BUFFER_CLEAR, { remotePtr, value: 0 }),
    encodeRequest(Command.GET_ALLOC_SIZE, { device: 0, tensor: sum, srcs }),
    encodeRequest(Command.SET_TENSOR, { tensor: input, cacheFlag: 0, offsetBytes: 0n, data }),
    encodeRequest(Command.GRAPH_COMPUTE, { device: 0, nodes: [2n], tensors: [input, sum] }),
    encodeRequest(Command.GRAPH_RECOMPUTE, { device: 0 }),
    encodeRequest(Command.GET_TENSOR, { tensor: sum, offsetBytes: 0n, sizeBytes: 16n }),
    encodeRequest(Command.FREE_BUFFER, { remotePtr }),
  ])
}

/**
 * Serves a small client of its own, so that the code is compiled and ggml's pages are in memory before a
 * real client waits for them: 3 ms of its first requests. Only on a CPU: a waiting process should not hold
 * a GPU's memory.
 */
export const warmUp = (devices: readonly ServedDevice[]): void => {
  if (devices[0]?.usesHostMemory !== true) return
  const [client, server] = socketPair()
  const stream = requests()
  io().io_send(client, asPointer(ptr(stream) as number), stream.length)
  io().io_shutdown(client)
  const session = new Session({
    devices,
    cache: undefined,
    promises: undefined,
    directMemory: true,
    helloTimeoutMs: 1000,
    onRequest: undefined,
    onStateful: () => {},
  })
  try {
    session.serve(server)
  } catch (error) {
    if (!(error instanceof ClientGone)) throw error
  } finally {
    io().io_close(server)
    io().io_close(client)
  }
}
