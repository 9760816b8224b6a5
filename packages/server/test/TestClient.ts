import {
  ABSENT_TENSOR,
  Command,
  commandSpec,
  decodeResponse,
  encodeRequest,
  type MessageId,
  newest,
  noConnCaps,
  offers,
  opId,
  type ProtocolSpec,
  type RequestOf,
  type ResponseOf,
  type RpcTensor,
  select,
  TensorFlag,
} from "@ggml-rpc/protocol"
import type { Socket } from "bun"

export interface TestClientOptions {
  /** Default `127.0.0.1`. */
  readonly host?: string
  /** What the client speaks; default the newest version. */
  readonly spec?: ProtocolSpec
}

/**
 * A client for the tests: sends whole requests or any bytes, and reads answers in order. Asynchronous, as
 * the server's front process runs in the process of the tests.
 */
export class TestClient {
  readonly #socket: Socket
  /** What it speaks. */
  spec: ProtocolSpec
  readonly #unsent: Uint8Array[] = []
  #received: Uint8Array[] = []
  #receivedSize = 0
  #wake: () => void = () => {}
  #closed = false
  /** Resolves when the server ended the connection, or `close` did. */
  readonly closed: Promise<void>
  #resolveClosed: () => void = () => {}

  private constructor(socket: Socket, spec: ProtocolSpec) {
    this.#socket = socket
    this.spec = spec
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve
    })
  }

  /** Connects without saying anything. */
  static async open(port: number, options: TestClientOptions = {}): Promise<TestClient> {
    let client: TestClient | undefined
    const early: Uint8Array[] = []
    let ended = false
    const end = (): void => {
      ended = true
      if (client !== undefined) client.#end()
    }
    const socket = await Bun.connect({
      hostname: options.host ?? "127.0.0.1",
      port,
      socket: {
        data: (_, data) => {
          if (client === undefined) early.push(data)
          else client.#receive(data)
        },
        drain: () => {
          if (client !== undefined) client.#drain()
        },
        close: end,
        end,
        error: end,
      },
    })
    client = new TestClient(socket, options.spec ?? newest)
    for (const data of early) client.#receive(data)
    if (ended) client.#end()
    return client
  }

  /** Connects and says HELLO. */
  static async connect(port: number, options?: TestClientOptions): Promise<TestClient> {
    const client = await TestClient.open(port, options)
    await client.ask(Command.HELLO, { connCaps: noConnCaps() })
    return client
  }

  /**
   * Connects, says HELLO with or without capabilities, and speaks whatever version the server announces.
   *
   * @throws {Error} when the server has none for this HELLO
   */
  static async meet(port: number, helloCaps: boolean): Promise<TestClient> {
    const client = await TestClient.open(port, { spec: offers(helloCaps)[0]! })
    const selection = select(await client.ask(Command.HELLO, { connCaps: noConnCaps() }))
    if ("refusal" in selection) throw new Error(selection.refusal)
    client.spec = selection.spec
    return client
  }

  get isClosed(): boolean {
    return this.#closed
  }

  #receive(data: Uint8Array): void {
    this.#received.push(data)
    this.#receivedSize += data.length
    this.#wake()
  }

  #end(): void {
    this.#closed = true
    this.#wake()
    this.#resolveClosed()
  }

  #drain(): void {
    while (this.#unsent.length > 0) {
      const bytes = this.#unsent[0]!
      const written = this.#socket.write(bytes)
      if (written < 0) return
      if (written < bytes.length) {
        this.#unsent[0] = bytes.subarray(written)
        return
      }
      this.#unsent.shift()
    }
  }

  /** Sends bytes as they are. */
  write(bytes: Uint8Array): void {
    this.#unsent.push(bytes)
    if (this.#unsent.length === 1) this.#drain()
  }

  /** Resolves when everything was handed to the system. */
  async flushed(): Promise<void> {
    while (this.#unsent.length > 0 && !this.#closed) await Bun.sleep(1)
  }

  /** Sends a request without waiting for an answer. */
  send<C extends MessageId>(command: C, value: RequestOf<C>): void {
    this.write(encodeRequest(command, value, this.spec))
  }

  /** Reads exactly `size` bytes. @throws {Error} when the server closes before */
  async read(size: number): Promise<Uint8Array> {
    while (this.#receivedSize < size) {
      if (this.#closed) {
        throw new Error(`the server closed after ${this.#receivedSize} of ${size} bytes`)
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#received.length > 1) this.#received = [Buffer.concat(this.#received)]
    const all = this.#received[0] ?? new Uint8Array(0)
    this.#received = [all.subarray(size)]
    this.#receivedSize -= size
    return all.slice(0, size)
  }

  /** Reads the answer to a request that was sent. */
  async answer<C extends MessageId>(command: C): Promise<ResponseOf<C>> {
    const header = await this.read(8)
    const size = Number(new DataView(header.buffer, header.byteOffset).getBigUint64(0, true))
    return decodeResponse(command, await this.read(size), this.spec)
  }

  /** Sends a request that the newest version does not answer, and reads the answer where this version has one. */
  async tell<C extends MessageId>(command: C, value: RequestOf<C>): Promise<unknown> {
    this.send(command, value)
    const isAnswered = (commandSpec(command, this.spec)?.response ?? null) !== null
    return isAnswered ? await this.answer<C>(command) : undefined
  }

  /** Sends a request and reads its answer. */
  ask<C extends MessageId>(command: C, value: RequestOf<C>): Promise<ResponseOf<C>> {
    this.send(command, value)
    return this.answer(command)
  }

  /** A buffer, and its base address. */
  async allocate(sizeBytes: number, device = 0): Promise<TestBuffer> {
    const { remotePtr } = await this.ask(Command.ALLOC_BUFFER, {
      device,
      sizeBytes: BigInt(sizeBytes),
    })
    if (remotePtr === 0n) throw new Error(`no memory for ${sizeBytes} bytes`)
    const { basePtr } = await this.ask(Command.BUFFER_GET_BASE, { remotePtr })
    return { remotePtr, basePtr }
  }

  setTensor(tensor: RpcTensor, data: Uint8Array, offset = 0, cacheFlag = 0): void {
    this.send(Command.SET_TENSOR, { tensor, cacheFlag, offsetBytes: BigInt(offset), data })
  }

  async getTensor(tensor: RpcTensor, size: number, offset = 0): Promise<Uint8Array> {
    const { data } = await this.ask(Command.GET_TENSOR, {
      tensor,
      offsetBytes: BigInt(offset),
      sizeBytes: BigInt(size),
    })
    return data
  }

  /** Ends the connection in order. */
  close(): void {
    this.#socket.end()
    this.#end()
  }

  /** Ends the sending side alone. */
  shutdown(): void {
    this.#socket.shutdown()
  }

  /** Ends the connection by a reset, as the end of a process with unread data does. */
  reset(): void {
    this.#socket.terminate()
    this.#end()
  }
}

export interface TestBuffer {
  readonly remotePtr: bigint
  readonly basePtr: bigint
}

const F32 = 0

/** A dense F32 tensor of `ne` in a buffer, `offset` bytes behind its base. */
export const f32Tensor = (
  id: number | bigint,
  buffer: TestBuffer,
  offset: number,
  ne: readonly number[],
  fields: Partial<RpcTensor> = {},
): RpcTensor => {
  const shape = [0, 1, 2, 3].map((dim) => ne[dim] ?? 1)
  const nb = [4]
  for (let dim = 0; dim < 3; dim++) nb.push(nb[dim]! * shape[dim]!)
  return {
    ...ABSENT_TENSOR,
    id: BigInt(id),
    type: F32,
    buffer: buffer.remotePtr,
    ne: shape,
    nb,
    data: buffer.basePtr + BigInt(offset),
    ...fields,
  }
}

/** Ten source slots, the first ones filled. */
export const sources = (...ids: readonly (number | bigint)[]): bigint[] =>
  Array.from({ length: 10 }, (_, index) => BigInt(ids[index] ?? 0))

/** The number that the newest version gives to an operation; the loaded ggml's may be another. */
export const newestOpId = (op: string): number => opId(op, newest.numberings.at(-1)!)

/** Fields of a node that is computed. */
export const node = (op: string, ...ids: readonly (number | bigint)[]): Partial<RpcTensor> => ({
  op: newestOpId(op),
  flags: TensorFlag.COMPUTE,
  src: sources(...ids),
})

export const floats = (...values: readonly number[]): Uint8Array =>
  new Uint8Array(new Float32Array(values).buffer)

export const toFloats = (bytes: Uint8Array): number[] => [...new Float32Array(bytes.slice().buffer)]
