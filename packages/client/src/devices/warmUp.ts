import { ptr } from "bun:ffi"
import { type Address, io, socketPair } from "@ggml-rpc/native/bindings"
import { Command, encodeResponse } from "@ggml-rpc/protocol"
import { COPY_LIMIT_BYTES, RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceOperations } from "./DeviceOperations.ts"
import { type DeviceState, newDeviceState } from "./device.ts"

/** So often until JavaScriptCore has compiled most of it: 34 calls of a function do. */
const ROUNDS = 12
/** Large weights take room in the sockets. */
const WEIGHTS = 2

/**
 * Does for nothing what a load does, with a server that is only a socket full of answers: code that runs
 * for the first time takes several times as long, and of a small model's load it is a third. `states` is what
 * `operations` work on.
 */
export const warmUp = (operations: DeviceOperations, states: Array<DeviceState>): void => {
  const [near, far] = socketPair()
  const connection = RpcConnection.over(near, { host: "warm-up", port: 0 })
  const device = states.length
  states.push(newDeviceState({ address: 0, name: "", deviceIndex: 0 }, connection, -1))
  try {
    const answers = Buffer.concat([
      encodeResponse(Command.ALLOC_BUFFER, { remotePtr: 1n, remoteSizeBytes: 1n }),
      encodeResponse(Command.BUFFER_GET_BASE, { basePtr: 1n }),
      encodeResponse(Command.GET_ALLOC_SIZE, { allocSizeBytes: 1n }),
    ])
    // All of it fits into the sockets (see io_socketpair): nobody reads the requests.
    for (let round = 0; round < ROUNDS; round++) io().io_send(far, answers, answers.length)
    const weight = new Uint8Array(COPY_LIMIT_BYTES + 1)
    const data = ptr(weight) as Address
    for (let round = 0; round < ROUNDS; round++) {
      operations.allocBuffer(device, 1)
      for (let tensor = 0; tensor < 16; tensor++) operations.setTensor(device, data, 0, 64, true)
      if (round < WEIGHTS) operations.setTensor(device, data, 0, weight.length, true)
      operations.clearBuffer(device, 0)
      operations.getAllocSize(device)
      operations.freeBuffer(device)
    }
  } finally {
    states.pop()
    connection.close()
    io().io_close(far)
  }
}
