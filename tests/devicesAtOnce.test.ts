/**
 * A session whose devices compute at once does what a client asks for in its order all the same. Each graph here begins a while after the
 * session has gone on: it waits for one of the other device, which does not come.
 */
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test"
import { join } from "node:path"
import { Command } from "@ggml-rpc/protocol"
import { allReduceDevices } from "../packages/server/test/linkedServers.ts"
import {
  f32Tensor,
  floats,
  node,
  type TestBuffer,
  TestClient,
  toFloats,
} from "../packages/server/test/TestClient.ts"
import { temporaryFolder } from "./cli/program.ts"
import { startPairedServer } from "./pairedServers.ts"
import { waitUntil } from "./peers/process.ts"
import type { OurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const LATE_MS = 100

const stack = new AsyncDisposableStack()
let server: OurServer
beforeAll(async () => {
  const folder = stack.use(temporaryFolder())
  const env = {
    GGML_PAIRED_LOG: join(folder.path, "log"),
    GGML_PAIRED_WAIT_MS: String(LATE_MS),
  }
  server = stack.use(await startPairedServer(2, { env }))
}, 600_000)
afterAll(() => stack.disposeAsync())

let client: TestClient
let buffers: readonly [TestBuffer, TestBuffer]
beforeEach(async () => {
  client = await TestClient.connect(server.port)
  buffers = [await client.allocate(4096, 0), await client.allocate(4096, 1)]
  for (const device of [0, 1]) client.setTensor(counter(device), floats(0))
  for (const device of [0, 1]) client.setTensor(step(device), floats(1))
})

afterEach(() => client.close())

const counter = (device: number) => f32Tensor(1, buffers[device]!, 0, [1])
const step = (device: number) => f32Tensor(2, buffers[device]!, 64, [1])

/** Adds the step to the counter of a device, in its place. */
const count = (device: number, uid = 1n): void => {
  const sum = f32Tensor(3, buffers[device]!, 0, [1], node("ADD", 1, 2))
  const tensors = [counter(device), step(device), sum]
  client.send(Command.GRAPH_COMPUTE, { uid, device, nodes: [3n], tensors })
}

const counted = async (device: number): Promise<number> =>
  toFloats(await client.getTensor(counter(device), 4))[0]!

test("what is written after a graph was started is not read by it", async () => {
  count(0)
  client.setTensor(step(0), floats(5))
  expect(await counted(0)).toBe(1)
  count(0)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffers[0].remotePtr, value: 0 })
  expect(await counted(0)).toBe(0)
})

test("a device is given one graph after the other, under one number and under others, and again", async () => {
  for (const uid of [1n, 1n, 2n, 0n]) count(0, uid)
  client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
  client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 2n })
  expect(await counted(0)).toBe(6)
})

test("graphs of two devices are started beside each other", async () => {
  for (let times = 0; times < 5; times++) {
    count(0)
    count(1)
  }
  const begun = performance.now()
  expect([await counted(0), await counted(1)]).toEqual([5, 5])
  // They met: none waited in vain.
  expect(performance.now() - begun).toBeLessThan(5 * LATE_MS)
})

test.each([
  ["reads", "reads", 0, 1],
  ["writes", "computes", 1, 0],
])(
  "a graph that %s memory of another device, which may be at work there, is refused",
  async (_, does, from, to) => {
    count(0)
    const doubled = f32Tensor(3, buffers[to]!, 128, [1], node("ADD", 1, 1))
    const graph = { uid: 7n, device: 1, nodes: [3n], tensors: [counter(from), doubled] }
    client.send(Command.GRAPH_COMPUTE, graph)
    await client.closed
    const isTold = () =>
      `${server.stdout()}${server.stderr()}`.includes(`is memory of device 0, but node 0 ${does}`)
    expect(await waitUntil(isTold, 5000)).toBe(true)
  },
)

test("a sum of both devices has what they compute", async () => {
  count(0)
  count(1)
  allReduceDevices(client, [0, 0], [counter(0), counter(1)])
  expect([await counted(0), await counted(1)]).toEqual([2, 2])
})

test("a buffer is not freed while a graph computes in it", async () => {
  count(0)
  client.send(Command.FREE_BUFFER, { remotePtr: buffers[0].remotePtr })
  count(1)
  client.send(Command.FREE_BUFFER, { remotePtr: buffers[1].remotePtr })
  expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(2)
})

test("a client that leaves while its devices compute leaves nothing behind", async () => {
  count(0)
  count(1)
  await client.flushed()
  client.close()
  const next = await TestClient.connect(server.port)
  expect((await next.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(2)
  next.close()
})

/** What the end of a session is told as, where a device fails. */
const fallenBy = async (how: string): Promise<string> => {
  await using failing = await startPairedServer(2, { env: { GGML_PAIRED_FAILS: how } })
  const user = await TestClient.connect(failing.port)
  const buffer = await user.allocate(64, 0)
  const [one, sum] = [f32Tensor(1, buffer, 0, [1]), f32Tensor(2, buffer, 0, [1], node("ADD", 1, 1))]
  user.setTensor(one, floats(1))
  user.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [2n], tensors: [one, sum] })
  await user.getTensor(one, 4).catch(() => {})
  await user.closed
  const told = (): string => `${failing.stdout()}${failing.stderr()}`
  expect(await waitUntil(() => told().includes("GRAPH_COMPUTE"), 5000)).toBe(true)
  return told()
}

test("a device that fails while it computes is told of, and the request that it failed", async () => {
  expect(await fallenBy("throws")).toMatch(
    /GRAPH_COMPUTE: PAIRED0 failed: PAIRED0: the device is lost/,
  )
  const told = await fallenBy("aborts")
  expect(told).toMatch(/GRAPH_COMPUTE/)
  expect(told).not.toContain("GET_TENSOR")
})
