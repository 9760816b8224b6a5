import { expect } from "bun:test"
import {
  Command,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  HelloResponse,
  type RpcTensor,
} from "@ggml-rpc/protocol"
import type { Recorded } from "../../protocol/fixtures/vectors.ts"
import type { TestBuffer, TestClient } from "./TestClient.ts"

const REQUEST_HEADER = 9
export const ANSWER_HEADER = 8

/** A recorded connection on a live one. */
export class Replay {
  readonly client: TestClient
  /** Port on which the servers meet; undefined where they refuse to. */
  readonly #linkPort: number | undefined
  /** By the recorded handle. */
  readonly #buffers = new Map<
    bigint,
    { readonly recordedBase: bigint; readonly live: TestBuffer }
  >()
  #allocated: readonly [recorded: bigint, live: bigint] | undefined

  constructor(client: TestClient, linkPort?: number) {
    this.client = client
    this.#linkPort = linkPort
  }

  #handle(recorded: bigint): bigint {
    if (this.#allocated?.[0] === recorded) return this.#allocated[1]
    return this.#buffers.get(recorded)?.live.remotePtr ?? recorded
  }

  #tensor(tensor: RpcTensor): RpcTensor {
    const known = this.#buffers.get(tensor.buffer)
    if (known === undefined) return tensor
    const { remotePtr, basePtr } = known.live
    return { ...tensor, buffer: remotePtr, data: tensor.data - known.recordedBase + basePtr }
  }

  /** A request with what lives in place of what was recorded. */
  request({ command, bytes }: Recorded): Uint8Array {
    const value = decodeRequest(command, bytes.subarray(REQUEST_HEADER)) as Record<string, unknown>
    const entries = Object.entries(value).map(([field, old]) => {
      if (field === "remotePtr") return [field, this.#handle(old as bigint)]
      if (field === "tensor") return [field, this.#tensor(old as RpcTensor)]
      if (field === "tensors") return [field, (old as RpcTensor[]).map((one) => this.#tensor(one))]
      if (field === "port") return [field, this.#linkPort ?? old]
      return [field, old]
    })
    return encodeRequest(command, Object.fromEntries(entries))
  }

  /** Reads an answer and compares it with the recorded one, as far as it does not name an address. */
  async answer({ command, bytes }: Recorded): Promise<void> {
    const live = await this.client.read(bytes.length)
    expect(live.subarray(0, ANSWER_HEADER)).toEqual(bytes.subarray(0, ANSWER_HEADER))
    const [theirs, ours] = [bytes, live].map((each) => each.subarray(ANSWER_HEADER))
    if (command === Command.ALLOC_BUFFER) {
      const [recorded, got] = [theirs!, ours!].map((each) => decodeResponse(command, each))
      expect(got!.remoteSizeBytes).toBe(recorded!.remoteSizeBytes)
      this.#allocated = [recorded!.remotePtr, got!.remotePtr]
    } else if (command === Command.BUFFER_GET_BASE) {
      const [recorded, got] = [theirs!, ours!].map((each) => decodeResponse(command, each))
      const [handle, remotePtr] = this.#allocated!
      const recordedBase = recorded!.basePtr
      this.#buffers.set(handle, { recordedBase, live: { remotePtr, basePtr: got!.basePtr } })
    } else {
      // Upstream leaves this byte 0; see `HelloExtension`.
      if (command === Command.HELLO) ours![HelloResponse.offsets.extension] = 0
      const isRefused = command === Command.COMM_INIT && this.#linkPort === undefined
      expect(ours).toEqual(isRefused ? new Uint8Array([0]) : theirs!)
    }
  }

  /** What a client does without a link: reads the partial result, adds the other one and writes the sum, here `sum`. */
  async reduce(request: Recorded, sum: Uint8Array): Promise<void> {
    const { tensor } = decodeRequest(Command.COMM_ALLREDUCE, request.bytes.subarray(REQUEST_HEADER))
    const live = this.#tensor(tensor)
    await this.client.getTensor(live, sum.length)
    this.client.setTensor(live, sum)
  }
}
