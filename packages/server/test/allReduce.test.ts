/** Two servers that may be linked add up partial results, as upstream's do; nothing on the way waits for ever. */
import { expect, test } from "bun:test"
import { connect, type Socket } from "node:net"
import { Command, type RpcTensor } from "@ggml-rpc/protocol"
import { fnv1a64 } from "../../protocol/fixtures/fnv1a64.ts"
import {
  bf16Exchange,
  bf16Vectors,
  peerLink,
  transcripts,
} from "../../protocol/fixtures/vectors.ts"
import type { ServeOptions } from "../src/index.ts"
import { listening } from "./listening.ts"
import { Replay } from "./Replay.ts"
import { f32Tensor, floats, TestClient, toFloats } from "./TestClient.ts"
import { type TestServer, withServer } from "./withServer.ts"

const allowed = { allowComm: true }
const hasty = { allowComm: true, linkTimeoutMs: 300, linkSilenceMs: 300 }

const withTwo = (
  options: ServeOptions,
  use: (rank0: TestServer, rank1: TestServer) => Promise<void>,
): Promise<void> =>
  withServer(options, (rank0) => withServer(options, (rank1) => use(rank0, rank1)))

/** A port that nobody listens on. */
const freePort = async (): Promise<number> => {
  const { port, stop } = await listening(() => {})
  stop()
  return port
}

interface Piece {
  readonly from: string
  bytes: Uint8Array
}

/** What one side says without the other saying anything is one. */
const keep = (seen: Piece[], from: string, data: Uint8Array): void => {
  const last = seen.at(-1)
  if (last?.from === from) last.bytes = Uint8Array.from(Buffer.concat([last.bytes, data]))
  else seen.push({ from, bytes: Uint8Array.from(data) })
}

/** Connects to a server that may not listen yet. */
const dial = async (port: number): Promise<Socket> => {
  for (;;) {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const socket = connect(port, "127.0.0.1", () => resolve(true))
    socket.on("error", () => resolve(false))
    if (await promise) return socket
    await Bun.sleep(20)
  }
}

/** Passes the link on to the server that listens on `target`, and keeps what passes. */
const relayTo = async (target: number) => {
  const seen: Piece[] = []
  const { port, stop } = await listening(async (rank1) => {
    rank1.pause()
    const rank0 = await dial(target)
    rank0.on("data", (data: Uint8Array) => keep(seen, "rank0", data)).pipe(rank1)
    rank1.on("data", (data: Uint8Array) => keep(seen, "rank1", data)).pipe(rank0)
  })
  return { port, seen, stop }
}

const link = (rank: number, port: number, host = "127.0.0.1") => ({
  ...{ device: 0, rank, worldSize: 2, port, host: rank === 0 ? "" : host },
})

/** Links two servers through a relay, and gives their clients. */
const linkTwo = async (rank0: TestServer, rank1: TestServer) => {
  const port = await freePort()
  const relay = await relayTo(port)
  const clients = [await TestClient.connect(rank0.port), await TestClient.connect(rank1.port)]
  clients[0]!.send(Command.COMM_INIT, link(0, port))
  clients[1]!.send(Command.COMM_INIT, link(1, relay.port))
  for (const client of clients) expect((await client.answer(Command.COMM_INIT)).result).toBe(1)
  const close = (): void => {
    for (const client of clients) client.close()
    relay.stop()
  }
  return { clients: clients as [TestClient, TestClient], seen: relay.seen, close }
}

/** Puts a partial result into a buffer of the client's. */
const partial = async (client: TestClient, data: Uint8Array, ne: readonly number[]) => {
  const tensor = f32Tensor(1, await client.allocate(data.length), 0, ne)
  client.setTensor(tensor, data)
  return tensor
}

const reduce = (client: TestClient, tensor: RpcTensor): void =>
  client.send(Command.COMM_ALLREDUCE, { device: 0, tensor })

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer)

test("a recorded client and its two servers: their answers and the link between them", () =>
  withTwo(allowed, async (rank0, rank1) => {
    const port = await freePort()
    const relay = await relayTo(port)
    const recordings = transcripts.filter(({ name }) => name.includes("COMM_INIT"))
    expect(recordings).toHaveLength(2)
    const run = async (server: TestServer, index: number, linkPort: number) => {
      const client = await TestClient.open(server.port)
      const replay = new Replay(client, linkPort)
      for (const message of recordings[index]!.messages) {
        if (message.from === "server") await replay.answer(message)
        else client.write(replay.request(message))
      }
      client.close()
    }
    await Promise.all([run(rank0, 0, port), run(rank1, 1, relay.port)])
    const recorded: Piece[] = []
    for (const { from, bytes } of peerLink) keep(recorded, from, bytes)
    expect(relay.seen).toEqual(recorded)
    relay.stop()
    await rank0.logged("linked this server with 127.0.0.1")
  }))

test.each([
  ["straight in host memory", true],
  ["through the backend, as on a GPU", false],
])(
  "from 32768 elements on bf16 travels, and each keeps its own half exact: %s",
  (_, directMemory) =>
    withTwo({ ...allowed, directMemory }, async (rank0, rank1) => {
      const { clients, seen, close } = await linkTwo(rank0, rank1)
      const { elements, ne, inputFnv1a64, wireBytesEachWay } = bf16Exchange
      const inputs = [
        Float32Array.from({ length: elements }, (_, i) => (((i * 37) % 4001) - 2000) / 1024),
        Float32Array.from({ length: elements }, (_, i) => (((i * 53) % 3001) - 1500) / 768),
      ].map(bytesOf)
      expect(inputs.map((input) => fnv1a64(input))).toEqual(inputFnv1a64.map(BigInt))
      const tensors = [
        await partial(clients[0], inputs[0]!, ne),
        await partial(clients[1], inputs[1]!, ne),
      ]
      for (const [rank, client] of clients.entries()) reduce(client, tensors[rank]!)
      const sums = await Promise.all(
        clients.map((client, rank) => client.getTensor(tensors[rank]!, elements * 4)),
      )
      expect(sums.map((sum) => fnv1a64(sum))).toEqual(
        [bf16Exchange.resultRank0, bf16Exchange.resultRank1].map((each) => BigInt(each.fnv1a64)),
      )
      // Behind the capabilities, of which rank 0's come just before its part.
      expect(seen.map(({ from, bytes }) => [from, bytes.length])).toEqual([
        ["rank1", 24],
        ["rank0", 24 + wireBytesEachWay],
        ["rank1", wireBytesEachWay],
      ])
      expect(fnv1a64(seen[1]!.bytes.slice(24))).toBe(BigInt(bf16Exchange.rank0ToRank1.fnv1a64))
      expect(fnv1a64(seen[2]!.bytes)).toBe(BigInt(bf16Exchange.rank1ToRank0.fnv1a64))
      close()
    }),
)

test.each([
  ["straight in host memory", true],
  ["through the backend, as on a GPU", false],
])(
  "below 32768 elements f32 travels, and one more time and more than a block: %s",
  (_, directMemory) =>
    withTwo({ ...allowed, directMemory }, async (rank0, rank1) => {
      const { clients, close } = await linkTwo(rank0, rank1)
      const small = 32767
      // More than what is converted at once.
      const large = 600_000
      for (const [count, times] of [
        [small, 2],
        [large, 1],
      ] as const) {
        const inputs = [1, 2].map((rank) =>
          Float32Array.from({ length: count }, (_, i) => rank * ((i % 251) - 125)),
        )
        const tensors = [
          await partial(clients[0], bytesOf(inputs[0]!), [count]),
          await partial(clients[1], bytesOf(inputs[1]!), [count]),
        ]
        for (let time = 0; time < times; time++) {
          for (const [rank, client] of clients.entries()) reduce(client, tensors[rank]!)
        }
        // Small whole numbers are exact in bf16, too.
        const factor = times === 1 ? 3 : 6
        const sum = bytesOf(Float32Array.from(inputs[0]!, (value) => factor * value))
        for (const [rank, client] of clients.entries()) {
          expect(fnv1a64(await client.getTensor(tensors[rank]!, count * 4))).toBe(fnv1a64(sum))
        }
      }
      close()
    }),
)

/** A server under test as rank 1, whose rank 0 is this test: it has said its capabilities. */
const linkedToTest = async (server: TestServer) => {
  const { promise: connected, resolve } = Promise.withResolvers<Socket>()
  const listener = await listening(resolve)
  const client = await TestClient.connect(server.port)
  client.send(Command.COMM_INIT, link(1, listener.port))
  const peer = await connected
  let received: Uint8Array = new Uint8Array(0)
  peer.on("data", (data: Uint8Array) => {
    received = Uint8Array.from(Buffer.concat([received, data]))
  })
  peer.write(new Uint8Array(24))
  expect((await client.answer(Command.COMM_INIT)).result).toBe(1)
  const close = (): void => {
    client.close()
    peer.destroy()
    listener.stop()
  }
  /** What the server said, its capabilities first, once it is so much. */
  const heard = async (sizeBytes: number): Promise<Uint8Array> => {
    while (received.length < sizeBytes) await Bun.sleep(1)
    return received
  }
  return { client, peer, heard, close }
}

test("floats are rounded to bf16 as upstream rounds them", () =>
  withServer(allowed, async (server) => {
    const { client, peer, heard, close } = await linkedToTest(server)
    const count = 32768
    const bits = new Uint32Array(count)
    for (const [index, { f32Bits }] of bf16Vectors.entries()) bits[index] = f32Bits
    const tensor = await partial(client, new Uint8Array(bits.buffer), [count])
    reduce(client, tensor)
    peer.write(new Uint8Array(2 * count))
    await client.getTensor(tensor, 4)
    const sent = (await heard(24 + 2 * count)).slice(24)
    const words = new Uint16Array(sent.buffer)
    expect([...words.subarray(0, bf16Vectors.length)]).toEqual(bf16Vectors.map(({ bf16 }) => bf16))
    close()
  }))

test("a device that has a link is not linked again, until COMM_FREE", () =>
  withServer(hasty, async (server) => {
    const { client, close } = await linkedToTest(server)
    expect((await client.ask(Command.COMM_INIT, link(0, 1))).result).toBe(1)
    client.send(Command.COMM_FREE, { device: 0 })
    expect((await client.ask(Command.COMM_INIT, link(1, await freePort()))).result).toBe(0)
    close()
  }))

test("partial results without elements are not exchanged", () =>
  withServer(hasty, async (server) => {
    const { client, heard, close } = await linkedToTest(server)
    reduce(client, f32Tensor(1, await client.allocate(64), 0, [0]))
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    expect(await heard(24)).toHaveLength(24)
    close()
  }))

const failed = async (port: number, rank: number): Promise<void> => {
  await withServer(hasty, async (server) => {
    const client = await TestClient.connect(server.port)
    const start = performance.now()
    expect((await client.ask(Command.COMM_INIT, link(rank, port))).result).toBe(0)
    expect(performance.now() - start).toBeLessThan(5000)
    await server.logged("wants a link to another server")
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    client.close()
  })
}

test("a server that nobody dials says so in time", async () => failed(await freePort(), 0))

test("a server that nobody listens for says so in time", async () => failed(await freePort(), 1))

test("ports of the system are not used", async () => {
  await failed(80, 0)
  await failed(80, 1)
})

test("a port that is taken is not listened on", async () => {
  const taken = await listening(() => {})
  await failed(taken.port, 0)
  taken.stop()
})

test("another server that says nothing is given up", async () => {
  const silent = await listening(() => {})
  await failed(silent.port, 1)
  silent.stop()
})

test("another server that hangs up is given up", async () => {
  const refusing = await listening((peer) => peer.destroy())
  await failed(refusing.port, 1)
  refusing.stop()
})

test("it listens on the address by which the client came, and no longer than needed", () =>
  withServer({ ...allowed, host: "0.0.0.0" }, async (server) => {
    const port = await freePort()
    const client = await TestClient.connect(server.port)
    client.send(Command.COMM_INIT, link(0, port))
    const isOpen = async (host: string): Promise<boolean> => {
      const { promise, resolve } = Promise.withResolvers<boolean>()
      const socket = connect(port, host)
      socket.on("connect", () => resolve(true)).on("error", () => resolve(false))
      const open = await promise
      socket.destroy()
      return open
    }
    // Whoever comes is the other server; this one leaves without a byte.
    do expect(await isOpen("127.0.0.2")).toBe(false)
    while (!(await isOpen("127.0.0.1")))
    expect((await client.answer(Command.COMM_INIT)).result).toBe(0)
    expect(await isOpen("127.0.0.1")).toBe(false)
    client.close()
  }))

test("another server that does not send its part ends the connection in time", () =>
  withServer(hasty, async (server) => {
    const { client, close } = await linkedToTest(server)
    reduce(client, await partial(client, floats(1, 2, 3, 4), [4]))
    await client.closed
    await server.logged("COMM_ALLREDUCE", "127.0.0.1, did not answer in time")
    close()
  }))

test("another server that does not take its part ends the connection in time", () =>
  withServer(hasty, async (server) => {
    const { client, peer, close } = await linkedToTest(server)
    peer.pause()
    // More than the sockets between the two hold.
    const count = 16 * 1024 * 1024
    const tensor = f32Tensor(1, await client.allocate(4 * count), 0, [count])
    peer.write(new Uint8Array(2 * count))
    reduce(client, tensor)
    await client.closed
    await server.logged("COMM_ALLREDUCE", "127.0.0.1, did not answer in time")
    close()
  }))

test("another server that leaves ends the connection", () =>
  withServer(allowed, async (server) => {
    const { client, peer, close } = await linkedToTest(server)
    const tensor = await partial(client, floats(1, 2, 3, 4), [4])
    peer.end()
    reduce(client, tensor)
    await client.closed
    await server.logged("COMM_ALLREDUCE", "closed the link")
    close()
  }))

test("a client that leaves while its server waits for another one takes the session along", () =>
  withServer({ allowComm: true, linkTimeoutMs: 60_000 }, async (server) => {
    const client = await TestClient.connect(server.port)
    client.send(Command.COMM_INIT, link(0, await freePort()))
    await client.flushed()
    await Bun.sleep(100)
    client.close()
    for (let tries = 0; server.clientCount() > 0 && tries < 500; tries++) await Bun.sleep(10)
    expect(server.clientCount()).toBe(0)
  }))

test.each([
  ["F16", { type: 1, nb: [2, 8, 8, 8] }, "tensor.type must be F32"],
  ["with gaps", { nb: [8, 32, 32, 32] }, "tensor.nb must leave no gaps"],
])("a partial result that is %s is refused", (_, fields, text) =>
  withServer(hasty, async (server) => {
    const { client, close } = await linkedToTest(server)
    const tensor = f32Tensor(1, await client.allocate(64), 0, [4], fields)
    reduce(client, tensor)
    await client.closed
    await server.logged("COMM_ALLREDUCE", text)
    close()
  }),
)

test("the sum lies where the partial result lay", () =>
  withServer(allowed, async (server) => {
    const { client, peer, heard, close } = await linkedToTest(server)
    const buffer = await client.allocate(64)
    const all = f32Tensor(1, buffer, 0, [8])
    client.setTensor(all, floats(1, 2, 3, 4, 5, 6, 7, 8))
    reduce(client, f32Tensor(2, buffer, 8, [2, 2]))
    peer.write(floats(10, 20, 30, 40))
    expect(toFloats(await client.getTensor(all, 32))).toEqual([1, 2, 13, 24, 35, 46, 7, 8])
    expect(toFloats((await heard(24 + 16)).slice(24))).toEqual([3, 4, 5, 6])
    close()
  }))
