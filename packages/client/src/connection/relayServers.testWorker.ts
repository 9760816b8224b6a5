/** Two servers for RpcConnection.test.ts: one answers reads, the other one gets the answers as data of writes. */
import { answer, receive } from "./farEnd.testHelper.ts"

declare const self: Worker

interface Job {
  readonly source: number
  readonly receiver: number
  readonly sizeBytes: number
  readonly count: number
}

/** The byte that all of it are; -1: they are not. */
const sameByte = (bytes: Uint8Array): number =>
  bytes.every((byte) => byte === bytes[0]) ? bytes[0]! : -1

self.onmessage = ({ data }: MessageEvent<Job>) => {
  const { source, receiver, sizeBytes, count } = data
  const found: Array<number> = []
  for (let index = 0; index < count; index++) {
    receive(source, 10)
    answer(source, new Uint8Array(sizeBytes).fill(index))
    receive(receiver, 4)
    found.push(sameByte(receive(receiver, sizeBytes)))
  }
  receive(receiver, 10)
  answer(receiver, Uint8Array.of(99))
  self.postMessage(found)
}
