/** A server with a cache, as `WeightUpload` sees it. */
import { ptr, toArrayBuffer } from "bun:ffi"
import { expect } from "bun:test"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"
import {
  Dialect,
  newest,
  REQUEST_HEADER_SIZE_BYTES,
  SetTensorHashRequest,
} from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"

/** A server that has weights of these hashes; what it was asked is in `asked`. */
export const serverWith = (has: (hash: string) => boolean, level = 15) => {
  const block = new Uint8Array(256 * 1024)
  const view = new DataView(block.buffer)
  const asked: string[] = []
  const commands: number[] = []
  let answered = 0
  const pending: Array<{ target: Address; answers: readonly number[] }> = []
  const connection = {
    failure: undefined,
    level,
    dialect: new Dialect(newest),
    block,
    blockView: view,
    reserve: () => 0,
    flush: () => {},
    expect: (target: Address, sizeBytes: number, command: number) => {
      commands.push(command)
      expect(block[0]).toBe(command)
      const answers = Array.from({ length: sizeBytes }, (_, index) => {
        const at =
          REQUEST_HEADER_SIZE_BYTES +
          index * SetTensorHashRequest.size +
          SetTensorHashRequest.offsets.hash
        const hash = view.getBigUint64(at, true).toString(16).padStart(16, "0")
        asked.push(hash)
        return has(hash) ? 1 : 0
      })
      pending.push({ target, answers })
      return answered + pending.length
    },
    roundTrip: (command: number, sizeBytes: number) => {
      const answer = new Uint8Array(sizeBytes)
      connection.drainTo(connection.expect(ptr(answer) as Address, sizeBytes, command))
      return answer
    },
    drainTo: (ticket: number) => {
      while (answered < ticket) {
        const { target, answers } = pending.shift()!
        new Uint8Array(toArrayBuffer(asPointer(target), 0, answers.length)).set(answers)
        answered++
      }
    },
  }
  const awaitedCount = (): number => pending.length
  return { connection: connection as unknown as RpcConnection, asked, commands, awaitedCount }
}
