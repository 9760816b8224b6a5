/** Receives on a descriptor, blocking, while `io.test.ts` sends. */
import { io } from "./io.ts"

declare const self: Worker

self.onmessage = ({ data: { fd, sizeBytes } }: MessageEvent<{ fd: number; sizeBytes: number }>) => {
  const block = new Uint8Array(sizeBytes)
  const received = io().io_recv_exact(fd, block, sizeBytes)
  self.postMessage({ received, sum: block.reduce((sum, byte) => sum + byte, 0) })
}
