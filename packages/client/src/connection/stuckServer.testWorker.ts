/** A server for RpcConnection.test.ts: one request, then its large answer, and nothing is read before that has left. */
import { answer, receive } from "./farEnd.testHelper.ts"

declare const self: Worker

interface Job {
  readonly far: number
  readonly requestBytes: number
  readonly answerBytes: number
  readonly restBytes: number
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
