import { ptr } from "bun:ffi"
import { asPointer, cString, io } from "@ggml-rpc/native/bindings"
import {
  Command,
  encodeRequest,
  newest,
  noConnCaps,
  RESPONSE_HEADER_SIZE_BYTES,
  responseCodec,
} from "@ggml-rpc/protocol"
import { f32Tensor, floats, node } from "../../packages/server/test/TestClient.ts"

const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })
const HELLO_ANSWER_BYTES = responseCodec(Command.HELLO, newest).minSizeBytes
const BUFFER = { remotePtr: 1n, basePtr: 1n << 44n }
/** Of the matrices that are multiplied: a millisecond's work. */
const SIZE = 192
const matrix = f32Tensor(1, BUFFER, 0, [SIZE, SIZE])
const product = f32Tensor(2, BUFFER, SIZE * SIZE * 4, [SIZE, SIZE], node("MUL_MAT", 1, 1))

const send = (fd: number, bytes: Uint8Array): void => {
  const sent = io().io_send(fd, asPointer(ptr(bytes) as number), bytes.length)
  if (sent < 0) throw new Error(`the server closed (${sent})`)
}

const receive = (fd: number, sizeBytes: number): void => {
  const answer = new Uint8Array(RESPONSE_HEADER_SIZE_BYTES + sizeBytes)
  const got = io().io_recv_exact(fd, asPointer(ptr(answer) as number), answer.length)
  if (got < answer.length || answer[0] !== sizeBytes) throw new Error(`no answer (${got})`)
}

const connect = (port: number): number => {
  const fd = io().io_connect(cString("127.0.0.1"), port, 30_000)
  if (fd < 0) throw new Error(`no connection (${fd})`)
  io().io_tune_socket(fd, 0)
  return fd
}

/** Milliseconds from connecting to the answer to HELLO. Blocks, for an exact time. */
export const firstAnswerMs = (port: number): number => {
  const started = performance.now()
  const fd = connect(port)
  try {
    send(fd, hello)
    receive(fd, HELLO_ANSWER_BYTES)
    return performance.now() - started
  } finally {
    io().io_close(fd)
  }
}

/** A well-behaved client that has a session of its own. Its calls block. */
export class SteadyClient implements Disposable {
  readonly #fd: number

  constructor(port: number) {
    this.#fd = connect(port)
    send(this.#fd, hello)
    receive(this.#fd, HELLO_ANSWER_BYTES)
    const sizeBytes = BigInt(2 * SIZE * SIZE * 4)
    send(this.#fd, encodeRequest(Command.ALLOC_BUFFER, { device: 0, sizeBytes }))
    receive(this.#fd, 16)
    const graph = { uid: 1n, device: 0, nodes: [2n], tensors: [matrix, product] }
    send(this.#fd, encodeRequest(Command.GRAPH_COMPUTE, graph))
    this.round()
  }

  /** Uploads a little, multiplies, reads a little: as for a token. */
  round(): void {
    const data = floats(1, 2, 3, 4)
    const set = { tensor: matrix, cacheFlag: 0, offsetBytes: 0n, data }
    const get = { tensor: product, offsetBytes: 0n, sizeBytes: 16n }
    send(
      this.#fd,
      Buffer.concat([
        encodeRequest(Command.SET_TENSOR, set),
        encodeRequest(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n }),
        encodeRequest(Command.GET_TENSOR, get),
      ]),
    )
    receive(this.#fd, 16)
  }

  /** Rounds a second, for so long. */
  rate(ms: number): number {
    const started = performance.now()
    let rounds = 0
    while (performance.now() - started < ms) {
      this.round()
      rounds++
    }
    return (rounds * 1000) / (performance.now() - started)
  }

  [Symbol.dispose](): void {
    io().io_close(this.#fd)
  }
}
