/** Partial sums that travel as bf16: every server holds the same bits afterwards, whoever adds up. */
import { ptr } from "bun:ffi"
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { Command, encodeRequest, RpcTensor } from "@ggml-rpc/protocol"
import { RpcConnection } from "../packages/client/src/connection/RpcConnection.ts"
import { ServerLinks } from "../packages/client/src/connection/ServerLinks.ts"
import type { Group } from "../packages/client/src/devices/AllReduce.ts"
import { ClientSums } from "../packages/client/src/devices/ClientSums.ts"
import { ServerSums } from "../packages/client/src/devices/ServerSums.ts"
import { f32Tensor } from "../packages/server/test/TestClient.ts"
import { type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { newestRelease } from "./peers/releases.ts"
import { startOurServer } from "./servers.ts"

setDefaultTimeout(120_000)

const stack = new AsyncDisposableStack()
const ours: Array<ServerProcess> = []
let upstream: ServerProcess
beforeAll(async () => {
  for (let index = 0; index < 2; index++) ours.push(stack.use(await startOurServer()))
  upstream = stack.use(await startUpstreamServer({ release: newestRelease, threads: 1 }))
})
afterAll(() => stack.disposeAsync())

/** A part on a server: values that no bf16 has. */
const partOn = (connection: RpcConnection, rank: number, count: number) => {
  const buffer = connection.call(Command.ALLOC_BUFFER, { device: 0, sizeBytes: BigInt(4 * count) })!
  const { basePtr } = connection.call(Command.BUFFER_GET_BASE, { remotePtr: buffer.remotePtr })!
  const tensor = f32Tensor(rank + 1, { remotePtr: buffer.remotePtr, basePtr }, 0, [count])
  const values = Float32Array.from({ length: count }, (_, at) => Math.sin(at + 1) / (rank + 3))
  const request = encodeRequest(Command.SET_TENSOR, {
    ...{ tensor, cacheFlag: 0, offsetBytes: 0n, data: new Uint8Array(values.buffer) },
  })
  connection.append(ptr(request) as number, request.length)
  const record = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(tensor, new DataView(record.buffer), 0)
  return { tensor, record, values }
}

const bytesOf = ({ buffer }: Float32Array): Uint8Array => new Uint8Array(buffer)
const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer)
const isBf16 = (values: Float32Array): boolean =>
  bitsOf(values).every((bits) => bits % 65_536 === 0)

interface Case {
  readonly who: "servers" | "client"
  readonly group: () => ReadonlyArray<ServerProcess>
  readonly count: number
  /** A bit for each server whose part counts. */
  readonly counting: number
}

test.each<readonly [string, Case]>([
  ["the servers do", { who: "servers", group: () => ours, count: 3000, counting: 0b11 }],
  ["this process does", { who: "client", group: () => ours, count: 3000, counting: 0b11 }],
  [
    "this process does, and one of the servers knows no bf16",
    { who: "client", group: () => [ours[0]!, upstream], count: 3000, counting: 0b11 },
  ],
  [
    "this process does, in pieces, and one of three servers has nothing to add",
    { who: "client", group: () => [...ours, upstream], count: 1_048_576 + 5, counting: 0b101 },
  ],
])("%s", (_, { who, group, count, counting }) => {
  const connections = group().map(({ port }) => new RpcConnection({ host: "127.0.0.1", port }))
  for (const connection of connections) {
    connection.open(5000)
    connection.peers = connections
    connection.beginWork()
  }
  const parts = connections.map((connection, rank) => partOn(connection, rank, count))
  const made = {
    members: connections.map((connection) => ({ connection })),
    exchange: { parts: parts.map(({ record }) => record) },
    isBf16: true,
  } as unknown as Group
  const sums = who === "servers" ? new ServerSums(made, new ServerLinks()) : new ClientSums(made)
  if (sums instanceof ServerSums) expect(sums.prepare()).toBeUndefined()
  const before = connections.map(({ traffic }) => traffic.sentBytes + traffic.receivedBytes)
  sums.reduce(count, counting)
  const crossed = connections.map(
    ({ traffic }, at) => traffic.sentBytes + traffic.receivedBytes - before[at]!,
  )
  const found = connections.map((connection, at) => {
    const request = encodeRequest(Command.GET_TENSOR, {
      ...{ tensor: parts[at]!.tensor, offsetBytes: 0n, sizeBytes: BigInt(4 * count) },
    })
    connection.block.set(request, connection.reserve(request.length))
    const target = new Float32Array(count)
    connection.drainTo(connection.expect(ptr(target) as number, 4 * count))
    expect(connection.failure).toBeUndefined()
    return target
  })
  for (const sums of found) expect(Buffer.compare(bytesOf(sums), bytesOf(found[0]!))).toBe(0)
  const counted = parts.filter((_, member) => ((counting >> member) & 1) !== 0)
  let difference = 0
  for (const [at, sum] of found[0]!.entries()) {
    const exact = counted.reduce((total, { values }) => total + values[at]!, 0)
    difference = Math.max(difference, Math.abs(sum - exact))
  }
  expect(difference).toBeGreaterThan(0)
  expect(difference).toBeLessThan(0.01)
  if (who === "client") {
    expect(isBf16(found[0]!)).toBe(true)
    for (const [at, { speaksBf16 }] of connections.entries()) {
      // There and, of a part that counts, back; what is around the values is less than one byte for each.
      const crossings = ((counting >> at) & 1) === 0 ? 1 : 2
      expect(Math.floor(crossed[at]! / count)).toBe(crossings * (speaksBf16 ? 2 : 4))
    }
  }
  sums.close()
  for (const connection of connections) connection.close()
})
