import { describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  ABSENT_TENSOR,
  Command,
  encodeRequest,
  HelloExtension,
  newest,
  noConnCaps,
  type RpcTensor,
} from "@ggml-rpc/protocol"
import { f32Tensor, floats, node, TestClient, toFloats } from "./TestClient.ts"
import { type TestServer, withServer } from "./withServer.ts"

const withClient = <A>(
  use: (client: TestClient, server: TestServer) => Promise<A>,
  options: Parameters<typeof withServer>[0] = {},
): Promise<A> =>
  withServer(options, async (server) => {
    const client = await TestClient.connect(server.port)
    try {
      return await use(client, server)
    } finally {
      client.close()
    }
  })

describe("questions", () => {
  test("HELLO answers the newest version, what needs not be asked for, and no capabilities", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-"))
    const { LEVEL, NO_CACHE, PLAIN_SIZES } = HelloExtension
    try {
      for (const [options, extension] of [
        // The CPU's tensors take just their own bytes.
        [{}, LEVEL | NO_CACHE | PLAIN_SIZES],
        [{ cacheDir: folder }, LEVEL | PLAIN_SIZES],
      ] as const) {
        await withServer(options, async ({ port }) => {
          const client = await TestClient.open(port)
          const answer = await client.ask(Command.HELLO, { connCaps: new Uint8Array(24).fill(7) })
          expect(answer).toEqual({ ...newest.version, extension, connCaps: noConnCaps() })
          client.close()
        })
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test("devices, alignment, limit and memory", () =>
    withClient(
      async (client, server) => {
        expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(2)
        for (const device of [0, 1]) {
          const { alignmentBytes } = await client.ask(Command.GET_ALIGNMENT, { device })
          expect(alignmentBytes & (alignmentBytes - 1n)).toBe(0n)
          const { maxSizeBytes } = await client.ask(Command.GET_MAX_SIZE, { device })
          expect(maxSizeBytes).toBe(2n ** 64n - 1n)
          const memory = await client.ask(Command.GET_DEVICE_MEMORY, { device })
          expect(Number(memory.totalBytes)).toBe(server.devices[device]!.totalBytes)
          expect(memory.freeBytes).toBeGreaterThan(0n)
          expect(memory.freeBytes).toBeLessThan(memory.totalBytes)
        }
      },
      { devices: ["CPU", "CPU"] },
    ))

  test("GET_ALLOC_SIZE is nbytes on a CPU, with sources of other servers", () =>
    withClient(async (client) => {
      const nowhere = { remotePtr: 0n, basePtr: 0n }
      const foreign = f32Tensor(2, { remotePtr: 0xdead_beefn, basePtr: 2n ** 60n }, 0, [8, 4])
      const srcs = [foreign, ...Array.from({ length: 9 }, () => ABSENT_TENSOR)]
      const tensor = f32Tensor(1, nowhere, 0, [8, 4], node("MUL_MAT", 2))
      const { allocSizeBytes } = await client.ask(Command.GET_ALLOC_SIZE, {
        device: 0,
        tensor,
        srcs,
      })
      expect(allocSizeBytes).toBe(128n)
    }))
})

describe("buffers", () => {
  test("handles and address ranges are disjoint and not used again", () =>
    withClient(async (client) => {
      const first = await client.allocate(1 << 20)
      const second = await client.allocate(1 << 20)
      client.send(Command.FREE_BUFFER, { remotePtr: first.remotePtr })
      const third = await client.allocate(1 << 20)
      const bases = [first.basePtr, second.basePtr, third.basePtr]
      for (let index = 1; index < 3; index++) {
        expect(bases[index]! - bases[index - 1]!).toBeGreaterThan(1n << 20n)
      }
      expect(new Set([first.remotePtr, second.remotePtr, third.remotePtr]).size).toBe(3)
      for (const base of bases) expect(base % 4096n).toBe(0n)
    }))

  test("an empty buffer has a handle and base 0", () =>
    withClient(async (client) => {
      const answer = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes: 0n })
      expect(answer.remotePtr).not.toBe(0n)
      expect(answer.remoteSizeBytes).toBe(0n)
      const { remotePtr } = answer
      expect((await client.ask(Command.BUFFER_GET_BASE, { remotePtr })).basePtr).toBe(0n)
    }))

  test.each([
    ["more than the machine has", 2n ** 50n],
    ["more than an address space has", 2n ** 53n - 1n],
    ["more than a number holds", 2n ** 64n - 1n],
  ])("%s is answered with 0, and the connection lives", (_, sizeBytes) =>
    withClient(async (client) => {
      const answer = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
      expect(answer).toEqual({ remotePtr: 0n, remoteSizeBytes: 0n })
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    }),
  )

  test("memory that was promised and is not yet written counts as taken", () =>
    withClient(async (client) => {
      const { freeBytes } = await client.ask(Command.GET_DEVICE_MEMORY, { device: 0 })
      const sizeBytes = (freeBytes * 6n) / 10n
      const first = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
      expect(first.remotePtr).not.toBe(0n)
      const second = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
      expect(second.remotePtr).toBe(0n)
      client.send(Command.FREE_BUFFER, { remotePtr: first.remotePtr })
      const third = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
      expect(third.remotePtr).not.toBe(0n)
    }))

  test("also what another session promised", () =>
    withServer({}, async ({ port }) => {
      const [one, two] = [await TestClient.connect(port), await TestClient.connect(port)]
      const { freeBytes } = await one.ask(Command.GET_DEVICE_MEMORY, { device: 0 })
      const sizeBytes = (freeBytes * 6n) / 10n
      const first = await one.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
      expect(first.remotePtr).not.toBe(0n)
      expect((await two.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })).remotePtr).toBe(0n)
      one.send(Command.FREE_BUFFER, { remotePtr: first.remotePtr })
      await one.ask(Command.DEVICE_COUNT, {})
      expect((await two.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })).remotePtr).not.toBe(0n)
      one.close()
      two.close()
    }))

  test("all of the free memory can be had, and then there is none", () =>
    withServer({}, async ({ port }) => {
      const [one, two] = [await TestClient.connect(port), await TestClient.connect(port)]
      let freeBytes = 0n
      let granted = 0n
      // Other programs may take more than is left to them in between: then it is asked anew.
      for (let tries = 0; granted === 0n && tries < 20; tries++) {
        freeBytes = (await one.ask(Command.GET_DEVICE_MEMORY, { device: 0 })).freeBytes
        const sizeBytes = freeBytes - 64n * 1024n * 1024n
        granted = (await one.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })).remotePtr
      }
      expect(granted).toBe(1n)
      const left = await two.ask(Command.GET_DEVICE_MEMORY, { device: 0 })
      expect(left.freeBytes).toBeLessThan(freeBytes / 4n)
      one.close()
      two.close()
    }))

  test("clients who ask at the same time are not promised more than there is", () =>
    withServer({}, async ({ port }) => {
      const clients = await Promise.all(Array.from({ length: 11 }, () => TestClient.connect(port)))
      const answers = await Promise.all(
        clients.map((client) => client.ask(Command.GET_DEVICE_MEMORY, { device: 0 })),
      )
      // Each might have a share so small that a reading of a moment ago would do.
      const sizeBytes = answers[0]!.freeBytes / 9n
      let granted = 0
      for (const client of clients) {
        const { remotePtr } = await client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
        if (remotePtr !== 0n) granted++
      }
      expect(granted).toBeGreaterThan(5)
      expect(granted).toBeLessThan(10)
      for (const client of clients) client.close()
    }))

  test.each([true, false])("new memory is zero, large or small (after use: %p)", (isUsed) =>
    withClient(async (client) => {
      const sizes = [16, 1000, 4096, 300_000, 40_000_000]
      const ask = async (sizeBytes: number) => {
        const buffer = await client.allocate(sizeBytes)
        const whole = f32Tensor(1, buffer, 0, [sizeBytes / 4])
        return { buffer, bytes: await client.getTensor(whole, sizeBytes) }
      }
      for (let round = 0; round < 30; round++) {
        for (const sizeBytes of round === 0 ? sizes : sizes.slice(0, 4)) {
          const { buffer, bytes } = await ask(sizeBytes)
          expect(Buffer.compare(bytes, new Uint8Array(sizeBytes))).toBe(0)
          if (!isUsed) continue
          client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0xaa })
          client.send(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
        }
      }
    }),
  )

  test("BUFFER_CLEAR and MEMSET_TENSOR fill", () =>
    withClient(async (client) => {
      const buffer = await client.allocate(64)
      client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0xab })
      const tensor = f32Tensor(1, buffer, 16, [4])
      client.send(Command.MEMSET_TENSOR, { tensor, offsetBytes: 4n, sizeBytes: 8n, value: 1 })
      const all = await client.getTensor(f32Tensor(2, buffer, 0, [16]), 64)
      const expected = new Uint8Array(64).fill(0xab).fill(1, 20, 28)
      expect(all).toEqual(expected)
    }))
})

describe("tensors", () => {
  // The second size is larger than a small answer, the third than the inbox, the last than a staging block.
  const sizes = [4, 6000, 70_000, 3_000_001]
  const ways = [true, false].flatMap((directMemory) => sizes.map((count) => [count, directMemory]))
  test.each(ways as [number, boolean][])(
    "SET_TENSOR and GET_TENSOR carry %p floats (direct: %p)",
    (count, directMemory) =>
      withClient(
        async (client) => {
          const buffer = await client.allocate(count * 4)
          const tensor = f32Tensor(1, buffer, 0, [count])
          const data = new Uint8Array(count * 4)
          for (let index = 0; index < data.length; index++) data[index] = index * 7
          client.setTensor(tensor, data)
          expect(Buffer.compare(await client.getTensor(tensor, data.length), data)).toBe(0)
          // A part in the middle.
          const part = data.subarray(3, 13)
          client.setTensor(tensor, part, 1)
          expect(await client.getTensor(tensor, 10, 1)).toEqual(part)
        },
        { directMemory },
      ),
  )

  test("an empty read and an empty write at the end are harmless", () =>
    withClient(async (client) => {
      const buffer = await client.allocate(64)
      const tensor = f32Tensor(1, buffer, 0, [16])
      client.setTensor(tensor, new Uint8Array(0), 64)
      expect(await client.getTensor(tensor, 0, 64)).toHaveLength(0)
    }))

  test("COPY_TENSOR copies between buffers and devices", () =>
    withClient(
      async (client) => {
        const from = await client.allocate(64, 0)
        const to = await client.allocate(64, 1)
        const src = f32Tensor(1, from, 0, [4])
        const dst = f32Tensor(2, to, 32, [4])
        client.setTensor(src, floats(1, 2, 3, 4))
        expect((await client.ask(Command.COPY_TENSOR, { src, dst })).result).toBe(1)
        expect(toFloats(await client.getTensor(dst, 16))).toEqual([1, 2, 3, 4])
      },
      { devices: ["CPU", "CPU"] },
    ))

  test("INIT_TENSOR is accepted with and without a buffer", () =>
    withClient(async (client) => {
      const buffer = await client.allocate(4096)
      const q8 = { type: 8, ne: [32, 1, 1, 1], nb: [34, 34, 34, 34] }
      client.send(Command.INIT_TENSOR, { tensor: f32Tensor(1, buffer, 0, [32], q8) })
      client.send(Command.INIT_TENSOR, { tensor: { ...ABSENT_TENSOR, id: 1n, ...q8 } })
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    }))
})

/** `c = a + b` over 4 floats, at offsets 0, 64 and 128 of a buffer. */
const sum = async (client: TestClient, device = 0) => {
  const buffer = await client.allocate(4096, device)
  const a = f32Tensor(101, buffer, 0, [4])
  const b = f32Tensor(102, buffer, 64, [4])
  const c = f32Tensor(103, buffer, 128, [4], node("ADD", 101, 102))
  client.setTensor(a, floats(1, 2, 3, 4))
  client.setTensor(b, floats(10, 20, 30, 40))
  return { buffer, a, b, c, result: async () => toFloats(await client.getTensor(c, 16)) }
}

describe("graphs", () => {
  test("compute, and compute again with other inputs", () =>
    withClient(async (client) => {
      const { a, b, c, result } = await sum(client)
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [103n], tensors: [a, b, c] })
      expect(await result()).toEqual([11, 22, 33, 44])
      client.setTensor(a, floats(5, 5, 5, 5))
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
      expect(await result()).toEqual([15, 25, 35, 45])
    }))

  test("tensors may come in any order, twice, and unreachable ones are not looked at", () =>
    withClient(async (client) => {
      const { a, b, c, result } = await sum(client)
      const second: RpcTensor = { ...a, data: b.data }
      const junk: RpcTensor = { ...a, id: 999n, type: 77, op: 5000 }
      const tensors = [junk, c, b, a, second]
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [103n], tensors })
      expect(await result()).toEqual([11, 22, 33, 44])
    }))

  test("ids may be any 64 bits", () =>
    withClient(async (client) => {
      const { a, b, c, result } = await sum(client)
      const ids = [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n + 1n] as const
      const tensors = [
        { ...a, id: ids[0] },
        { ...b, id: ids[1] },
        { ...c, id: ids[2], src: [ids[0], ids[1], 0n, 0n, 0n, 0n, 0n, 0n, 0n, 0n] },
      ]
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [ids[2]], tensors })
      expect(await result()).toEqual([11, 22, 33, 44])
    }))

  test("a cast names itself as its second source", () =>
    withClient(async (client) => {
      const { buffer, a } = await sum(client)
      const half = { type: 1, nb: [2, 8, 8, 8] }
      const cast = f32Tensor(104, buffer, 256, [4], { ...half, ...node("CPY", 101, 104) })
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [104n], tensors: [a, cast] })
      const halves = await client.getTensor(cast, 8)
      expect([...new Uint16Array(halves.slice().buffer)]).toEqual([0x3c00, 0x4000, 0x4200, 0x4400])
    }))

  test("nodes without the compute flag are skipped, and may lack memory", () =>
    withClient(async (client) => {
      const { a, b, c, result } = await sum(client)
      client.setTensor(c, floats(0, 0, 0, 0))
      const nowhere = { remotePtr: 0n, basePtr: 0n }
      const skipped = f32Tensor(105, nowhere, 0, [4], { ...node("ADD", 101, 102), flags: 0 })
      const tensors = [a, b, { ...c, flags: 0 }, skipped]
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [103n, 105n], tensors })
      expect(await result()).toEqual([0, 0, 0, 0])
    }))

  test("no nodes, and bytes behind the last tensor, are accepted", () =>
    withClient(async (client) => {
      const { a, b, c, result } = await sum(client)
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [], tensors: [] })
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
      const graph = { device: 0, nodes: [103n], tensors: [a, b, c] }
      const request = encodeRequest(Command.GRAPH_COMPUTE, graph)
      const longer = new Uint8Array(request.length + 7)
      longer.set(request)
      new DataView(longer.buffer).setBigUint64(1, BigInt(request.length - 9 + 7), true)
      client.write(longer)
      expect(await result()).toEqual([11, 22, 33, 44])
    }))

  test("each device keeps its own graph, and FREE_BUFFER drops only those that use the buffer", () =>
    withClient(
      async (client, { logged }) => {
        const first = await sum(client, 0)
        const second = await sum(client, 1)
        for (const [device, { a, b, c }] of [first, second].entries()) {
          client.send(Command.GRAPH_COMPUTE, { uid: 1n, device, nodes: [103n], tensors: [a, b, c] })
        }
        client.send(Command.FREE_BUFFER, { remotePtr: second.buffer.remotePtr })
        client.setTensor(first.a, floats(0, 0, 0, 0))
        client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
        expect(await first.result()).toEqual([10, 20, 30, 40])
        client.send(Command.GRAPH_RECOMPUTE, { device: 1, uid: 1n })
        await client.closed
        await logged("GRAPH_RECOMPUTE", "device", "no computed graph", "(got 1)")
      },
      { devices: ["CPU", "CPU"] },
    ))

  test("a chain deeper than any call stack", () =>
    withClient(async (client) => {
      const depth = 50_000
      const buffer = await client.allocate(4096)
      const start = f32Tensor(1, buffer, 0, [4])
      client.setTensor(start, floats(1, 2, 3, 4))
      // All in place: each adds 0 to the same memory.
      const zero = f32Tensor(2, buffer, 64, [4])
      client.setTensor(zero, floats(1, 0, 0, 0))
      const tensors = [start, zero]
      for (let index = 0; index < depth; index++) {
        tensors.push(
          f32Tensor(3 + index, buffer, 0, [4], node("ADD", index === 0 ? 1 : 2 + index, 2)),
        )
      }
      const last = BigInt(2 + depth)
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [last], tensors })
      expect(toFloats(await client.getTensor(start, 16))).toEqual([2, 2, 3, 4])
    }))
})
