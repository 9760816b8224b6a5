/** A server for RpcConnection.test.ts: one request, then its large answer, and nothing is read before that has left. */
import { io } from "@ggml-rpc/native/bindings"
import { Command, encodeResponse } from "@ggml-rpc/protocol"

declare const self: Worker

interface Job {
  readonly far: number
  readonly requestBytes: number
  readonly answerBytes: number
  readonly restBytes: number
}

const receive = (far: number, sizeBytes: number): Uint8Array => {
  const bytes = new Uint8Array(sizeBytes)
  io().io_recv_exact(far, bytes, sizeBytes)
  return bytes
}

const answer = (far: number, data: Uint8Array): void => {
  const response = encodeResponse(Command.GET_TENSOR, { data })
  io().io_send(far, response, response.length)
}

self.onmessage = ({ data }: MessageEvent<Job>) => {
  const { far, requestBytes, answerBytes, restBytes } = data
  receive(far, requestBytes)
  answer(far, new Uint8Array(answerBytes).fill(3))
  let sum = 0
  for (const byte of receive(far, restBytes)) sum += byte
  answer(far, Uint8Array.of(4))
  self.postMessage(sum)
}
