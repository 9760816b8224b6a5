/** The far end of a connection, for workers of RpcConnection.test.ts that stand for servers. */
import { io } from "@ggml-rpc/native/bindings"
import { Command, encodeResponse } from "@ggml-rpc/protocol"

/** Waits for so many bytes of requests. */
export const receive = (far: number, sizeBytes: number): Uint8Array => {
  const bytes = new Uint8Array(sizeBytes)
  io().io_recv_exact(far, bytes, sizeBytes)
  return bytes
}

/** Answers a GET_TENSOR. */
export const answer = (far: number, data: Uint8Array): void => {
  const response = encodeResponse(Command.GET_TENSOR, { data })
  io().io_send(far, response, response.length)
}
