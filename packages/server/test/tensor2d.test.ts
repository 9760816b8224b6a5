/** SET_TENSOR_2D and GET_TENSOR_2D: runs of bytes at a stride in a tensor. */
import { describe, expect, test } from "bun:test"
import { Command, type RequestOf, type RpcTensor } from "@ggml-rpc/protocol"
import { serversOfBothMemories } from "./bothMemories.ts"
import { f32Tensor, floats, type TestBuffer, TestClient, toFloats } from "./TestClient.ts"

const servers = serversOfBothMemories()

type Runs = Omit<RequestOf<typeof Command.GET_TENSOR_2D>, "tensor">

const runsOf = (offset: number, size: number, count: number, stride: number): Runs => ({
  offsetBytes: BigInt(offset),
  sizeBytes: BigInt(size),
  runCount: BigInt(count),
  strideBytes: BigInt(stride),
})

const withClient = async (
  directMemory: boolean,
  use: (client: TestClient) => Promise<void>,
): Promise<void> => {
  const client = await TestClient.connect((directMemory ? servers.direct : servers.staged).port)
  await use(client)
  client.close()
}

/** What a tensor of `before` holds after the runs were set to `data`. */
const afterRuns = (before: Uint8Array, runs: Runs, data: Uint8Array): Uint8Array => {
  const after = before.slice()
  const [offset, size, stride] = [runs.offsetBytes, runs.sizeBytes, runs.strideBytes].map(Number)
  for (let run = 0; run < Number(runs.runCount); run++) {
    after.set(data.subarray(run * size!, (run + 1) * size!), offset! + run * stride!)
  }
  return after
}

const MIB = 1024 * 1024

const good: readonly (readonly [string, number, Runs])[] = [
  ["two columns of two rows, to the very end", 8, runsOf(8, 8, 2, 16)],
  ["one run", 8, runsOf(4, 20, 1, 0)],
  ["one run whose stride does not matter", 8, runsOf(0, 32, 1, Number.MAX_SAFE_INTEGER)],
  ["runs over each other", 8, runsOf(0, 16, 3, 8)],
  ["runs in one place", 8, runsOf(4, 8, 5, 0)],
  ["bytes", 1000, runsOf(1, 1, 999, 4)],
  // Larger than the inbox, the outbox and, in all, than a staging block of 4 MiB.
  ["many small runs", 2_000_000, runsOf(4, 12, 499_999, 16)],
  ["runs that share a staging block", 3_000_000, runsOf(100, 70_000, 100, 110_000)],
  ["runs of a staging block", 3_000_000, runsOf(0, 4 * MIB, 2, 5 * MIB)],
  ["runs larger than a staging block", 3_000_000, runsOf(8, 5 * MIB + 3, 2, 6 * MIB)],
]

describe.each([true, false])("direct memory: %p", (directMemory) => {
  test.each(good)("%s", (_, count, runs) =>
    withClient(directMemory, async (client) => {
      const buffer = await client.allocate(count * 4)
      const tensor = f32Tensor(1, buffer, 0, [count])
      const before = new Uint8Array(count * 4)
      for (let at = 0; at < before.length; at++) before[at] = at * 7
      const data = new Uint8Array(Number(runs.sizeBytes * runs.runCount))
      for (let at = 0; at < data.length; at++) data[at] = at * 13 + (at >> 8)

      client.setTensor(tensor, before)
      client.send(Command.SET_TENSOR_2D, { tensor, ...runs, data })
      const after = await client.getTensor(tensor, before.length)
      const expected = afterRuns(before, runs, data)
      expect(Buffer.compare(after, expected)).toBe(0)

      const answer = await client.ask(Command.GET_TENSOR_2D, { tensor, ...runs })
      const read = new Uint8Array(data.length)
      const [offset, size, stride] = [runs.offsetBytes, runs.sizeBytes, runs.strideBytes]
      for (let run = 0; run < Number(runs.runCount); run++) {
        const start = Number(offset) + run * Number(stride)
        read.set(expected.subarray(start, start + Number(size)), run * Number(size))
      }
      expect(Buffer.compare(answer.data, read)).toBe(0)
      // The stream is in step.
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    }),
  )
})

test("runs of a tensor that begins within its buffer, between other requests", () =>
  withClient(true, async (client) => {
    const buffer = await client.allocate(128)
    const tensor = f32Tensor(1, buffer, 64, [4, 2])
    client.send(Command.SET_TENSOR_2D, {
      tensor,
      ...runsOf(8, 8, 2, 16),
      data: floats(1, 2, 3, 4),
    })
    const whole = f32Tensor(2, buffer, 0, [32])
    const values = toFloats(await client.getTensor(whole, 128))
    expect(values.slice(16, 24)).toEqual([0, 0, 1, 2, 0, 0, 3, 4])
    expect(values.filter((value) => value !== 0)).toEqual([1, 2, 3, 4])
  }))

const huge = 2n ** 64n - 1n

const bad: readonly (readonly [string, Partial<Runs>, number, string])[] = [
  ["no bytes", { sizeBytes: 0n }, 0, "size must be at least 1"],
  ["no runs", { runCount: 0n }, 0, "n_copies must be at least 1"],
  ["a byte too few", {}, 15, "payload_size must hold the 16 bytes of its runs"],
  ["a byte too many", {}, 17, "payload_size must hold the 16 bytes of its runs"],
  ["no data", {}, 0, "payload_size must hold the 16 bytes of its runs"],
  ["a span that ends behind the tensor", { offsetBytes: 9n }, 16, "n_copies exceeds the 23 bytes"],
  ["an offset behind the tensor", { offsetBytes: 33n }, 16, "offset lies outside"],
  ["an offset beyond 2^53", { offsetBytes: huge }, 16, "offset lies outside"],
  ["a size beyond 2^53", { sizeBytes: huge }, 16, "n_copies exceeds"],
  ["a count beyond 2^53", { runCount: huge }, 16, "n_copies exceeds"],
  ["a stride beyond 2^53", { strideBytes: huge }, 16, "n_copies exceeds"],
  ["a stride that comes around", { strideBytes: 2n ** 63n, runCount: 3n }, 24, "n_copies exceeds"],
  ["a span beyond 2^53", { strideBytes: 2n ** 52n, runCount: 4n }, 32, "n_copies exceeds"],
]

const refused = async (
  change: (tensor: RpcTensor, buffer: TestBuffer) => RpcTensor,
  runs: Runs,
  dataBytes: number | undefined,
  text: string,
): Promise<void> => {
  const before = servers.direct.log.length
  const client = await TestClient.connect(servers.direct.port)
  const buffer = await client.allocate(64)
  const tensor = change(f32Tensor(1, buffer, 16, [4, 2]), buffer)
  if (dataBytes === undefined) client.send(Command.GET_TENSOR_2D, { tensor, ...runs })
  else client.send(Command.SET_TENSOR_2D, { tensor, ...runs, data: new Uint8Array(dataBytes) })
  await client.closed
  const errors = (): string[] =>
    servers.direct.log
      .slice(before)
      .filter(({ level }) => level === "error")
      .map(({ message }) => message)
  for (let tries = 0; errors().length === 0 && tries < 500; tries++) await Bun.sleep(5)
  expect(errors()).toEqual([expect.stringContaining(text)])
  const command = dataBytes === undefined ? "GET_TENSOR_2D" : "SET_TENSOR_2D"
  expect(errors()[0]).toContain(`disconnected: ${command}: `)
}

const same = (tensor: RpcTensor): RpcTensor => tensor
const two = runsOf(0, 8, 2, 16)

describe("is refused", () => {
  test.each(bad)("SET_TENSOR_2D with %s", (_, fields, dataBytes, text) =>
    refused(same, { ...two, ...fields }, dataBytes, text),
  )

  test.each(bad.filter(([, , , text]) => !text.startsWith("payload_size")))(
    "GET_TENSOR_2D with %s",
    (_, fields, __, text) => refused(same, { ...two, ...fields }, undefined, text),
  )

  test.each([16, undefined])("of a tensor without a buffer (data: %p)", (dataBytes) =>
    refused((tensor) => ({ ...tensor, buffer: 0n, data: 0n }), two, dataBytes, "tensor.buffer"),
  )

  test.each([16, undefined])("of a tensor of another connection (data: %p)", (dataBytes) =>
    refused((tensor) => ({ ...tensor, buffer: 77n }), two, dataBytes, "tensor.buffer"),
  )

  test.each([16, undefined])("of a tensor that leads out of its buffer (data: %p)", (dataBytes) =>
    refused(
      (tensor, { basePtr }) => ({ ...tensor, data: basePtr + 40n }),
      two,
      dataBytes,
      "tensor.nb",
    ),
  )

  test("an answer beyond 2^53 bytes", () =>
    refused(same, runsOf(0, 32, 2 ** 50, 0), undefined, "n_copies makes 2^53 bytes or more"))
})
