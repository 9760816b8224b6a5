/** What is found out about servers whose speeds are known, by a clock that only they move. */
import { type Pointer, toArrayBuffer } from "bun:ffi"
import { afterAll, beforeEach, expect, spyOn, test } from "bun:test"
import type { Address } from "@ggml-rpc/native/bindings"
import { Command, Dialect, newest, RpcTensor } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceState } from "./device.ts"
import { measureDevice } from "./deviceSpeed.ts"
import { newStoredGraphs } from "./StoredGraphs.ts"

const MIB = 1024 * 1024

let nowMs = 0
const clock = spyOn(performance, "now").mockImplementation(() => nowMs)
afterAll(() => clock.mockRestore())
beforeEach(() => {
  nowMs = 0
})

interface Machine {
  readonly roundTripMs: number
  /** Of the way to it. */
  readonly wayBytesPerMs: number
  readonly memoryBytesPerMs: number
  /** What fits into this is read ten times as fast from the second time on. */
  readonly cacheBytes: number
  readonly multiplicationsPerMs: number
  readonly roomBytes: number
  /** How many graphs it computes before it is gone. */
  readonly graphs: number
}

const usual: Machine = {
  roundTripMs: 0.1,
  wayBytesPerMs: 125_000,
  memoryBytesPerMs: 20_000_000,
  cacheBytes: 0,
  multiplicationsPerMs: 500_000_000,
  roomBytes: 1024 * MIB,
  graphs: Number.POSITIVE_INFINITY,
}

/** Takes the client's part of a connection, and the time that the machine would. */
class Server {
  readonly dialect = new Dialect(newest)
  readonly block = new Uint8Array(4096)
  readonly blockView = new DataView(this.block.buffer)
  failure: Error | undefined
  readonly asked: Array<number> = []
  readonly buffers = new Set<bigint>()
  private nodeCount = 0
  private graphCount = 0
  private isCached = false

  readonly machine: Machine

  constructor(machine: Machine) {
    this.machine = machine
  }

  reserve(): number {
    return 0
  }

  append(data: Address, sizeBytes: number): void {
    nowMs += sizeBytes / this.machine.wayBytesPerMs
    if (sizeBytes % RpcTensor.size !== 0) {
      this.nodeCount = sizeBytes / 8
      return
    }
    const records = new DataView(toArrayBuffer(data as Pointer, 0, sizeBytes))
    const [weights, rows] = [0, 1].map((at) => RpcTensor.decode(records, at * RpcTensor.size))
    this.compute(weights!.ne[0]!, weights!.ne[1]!, rows!.ne[1]!)
  }

  private compute(width: number, height: number, rowCount: number): void {
    const { cacheBytes, graphs, memoryBytesPerMs, multiplicationsPerMs } = this.machine
    if (this.graphCount++ >= graphs) this.failure = new Error("gone")
    const weightBytes = (width / 32) * 34 * height
    const readMs = weightBytes / memoryBytesPerMs
    for (let node = 0; node < this.nodeCount; node++) {
      const isFast = this.isCached && weightBytes <= cacheBytes
      nowMs += Math.max(
        isFast ? readMs / 10 : readMs,
        (width * height * rowCount) / multiplicationsPerMs,
      )
      this.isCached = true
    }
  }

  expectAnswer(): void {}

  flush(): void {}

  post(command: number, value: { readonly remotePtr?: bigint }): void {
    this.asked.push(command)
    if (command === Command.FREE_BUFFER) this.buffers.delete(value.remotePtr!)
  }

  call(command: number, { sizeBytes }: { readonly sizeBytes: bigint }) {
    nowMs += this.machine.roundTripMs
    if (command === Command.BUFFER_GET_BASE) return { basePtr: 4096n }
    if (sizeBytes > this.machine.roomBytes) return { remotePtr: 0n, sizeBytes: 0n }
    this.buffers.add(1n)
    return { remotePtr: 1n, sizeBytes }
  }

  roundTrip(): void {
    nowMs += this.machine.roundTripMs
  }
}

const measured = (machine: Partial<Machine>) => {
  const server = new Server({ ...usual, ...machine })
  const speed = measureDevice({
    connection: server as unknown as RpcConnection,
    deviceIndex: 0,
    name: "RPC0",
    storedGraphs: newStoredGraphs("uid"),
  } as DeviceState)
  expect(server.buffers.size).toBe(0)
  return { server, speed }
}

/** Within a twentieth: what is sent of a graph for its one node counts as well. */
const expectSpeed = (machine: Partial<Machine>): void => {
  const { memoryBytesPerMs, multiplicationsPerMs } = { ...usual, ...machine }
  const { speed } = measured(machine)
  expect(speed?.device).toBe("RPC0")
  expect(speed!.weightBytesPerSecond / (memoryBytesPerMs * 1000)).toBeCloseTo(1, 1)
  expect(speed!.multiplicationsPerSecond / (multiplicationsPerMs * 1000)).toBeCloseTo(1, 1)
}

const GPU = { memoryBytesPerMs: 4_000_000_000, multiplicationsPerMs: 50_000_000_000 }

test("a device is as fast as its memory, not as its cache", () => {
  expectSpeed({})
  expectSpeed({ cacheBytes: 96 * MIB })
  expectSpeed({ cacheBytes: 96 * MIB, ...GPU })
})

test("a fast device is not measured by the network", () => {
  expectSpeed({ ...GPU, roundTripMs: 5 })
  expectSpeed({ ...GPU, roundTripMs: 5, wayBytesPerMs: 12_500 })
})

test("nothing is told of a device that is faster than the way to it allows to tell", () => {
  expect(measured({ ...GPU, roundTripMs: 500 }).speed).toBeUndefined()
})

test("a device with less room is measured with less", () => {
  expectSpeed({ roomBytes: 24 * MIB })
  const { server, speed } = measured({ roomBytes: 8 * MIB })
  expect(speed).toBeUndefined()
  expect(server.asked).not.toContain(Command.FREE_BUFFER)
})

test("nothing is told, and the buffer is given back, where the server fails meanwhile", () => {
  const { server, speed } = measured({ graphs: 3 })
  expect(speed).toBeUndefined()
  expect(server.asked.at(-1)).toBe(Command.FREE_BUFFER)
})
