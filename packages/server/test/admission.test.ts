/** What connections cost before, between and after sessions, and how addresses share what there is. */
import { describe, expect, test } from "bun:test"
import { availableParallelism } from "node:os"
import { Command, encodeRequest, noConnCaps } from "@ggml-rpc/protocol"
import { computeOnce } from "./graphs.ts"
import { memoryHolds, waitFor } from "./processes.ts"
import { f32Tensor, floats, node, type TestBuffer, TestClient } from "./TestClient.ts"
import { type TestServer, withServer } from "./withServer.ts"

const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })

const openMany = (port: number, count: number): Promise<TestClient[]> =>
  Promise.all(Array.from({ length: count }, () => TestClient.open(port)))

/** All processes that a server has had while something went on. */
const processesDuring = async (
  server: TestServer,
  doing: () => Promise<unknown>,
): Promise<ReadonlySet<number>> => {
  const seen = new Set(server.processIds())
  let isDone = false
  const looking = (async () => {
    while (!isDone) {
      for (const pid of server.processIds()) seen.add(pid)
      await Bun.sleep(2)
    }
  })()
  await doing()
  isDone = true
  await looking
  return seen
}

describe("before HELLO", () => {
  test("60 silent connections take no process and no client's place", () =>
    withServer({ maxClients: 2 }, async (server) => {
      const silent = await openMany(server.port, 60)
      await Bun.sleep(50)
      expect(server.processIds()).toHaveLength(1)
      expect(server.clientCount()).toBe(0)
      const client = await TestClient.connect(server.port)
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      for (const one of [...silent, client]) one.close()
    }))

  test("64 clients that drip byte after byte keep nobody out, and all have one deadline", () =>
    withServer({ helloTimeoutMs: 800 }, async (server) => {
      const dripping = await openMany(server.port, 64)
      const opened = performance.now()
      for (let byte = 0; byte < 3; byte++) {
        for (const client of dripping) client.write(hello.subarray(byte, byte + 1))
        const started = performance.now()
        const healthy = await TestClient.connect(server.port)
        expect(performance.now() - started).toBeLessThan(500)
        healthy.close()
        await Bun.sleep(150)
      }
      await Promise.all(dripping.map(({ closed }) => closed))
      expect(performance.now() - opened).toBeLessThan(2500)
      await server.logged("left (said no HELLO in time")
      expect(server.processIds()).toHaveLength(1)
    }))

  test("200 connections that close at once start no process", () =>
    withServer({}, async (server) => {
      const seen = await processesDuring(server, async () => {
        for (const client of await openMany(server.port, 200)) client.close()
        await Bun.sleep(100)
      })
      expect(seen.size).toBe(1)
    }))

  test("200 clients that say HELLO and close at once share a few processes", () =>
    withServer({}, async (server) => {
      const seen = await processesDuring(server, async () => {
        const clients = await openMany(server.port, 200)
        for (const client of clients) client.write(hello)
        for (const client of clients) client.close()
        await waitFor("all are gone", () => server.clientCount() === 0)
      })
      expect(seen.size).toBeLessThan(8)
    }))

  test("what is no HELLO is refused without a session, and logged", () =>
    withServer({}, async (server) => {
      const client = await TestClient.open(server.port)
      client.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"))
      await client.closed
      await server.logged("127.0.0.1:", "disconnected: ", "must be HELLO")
      expect(server.log.filter(({ message }) => message.includes("connected (process"))).toEqual([])
    }))

  test("where too many from one address are silent, the oldest gives way", () =>
    withServer({}, async (server) => {
      const first = await TestClient.open(server.port)
      const others = await openMany(server.port, 200)
      await first.closed
      const isOpen = others.filter(({ isClosed }) => !isClosed)
      await waitFor("the limit", () => others.filter((one) => !one.isClosed).length === 128)
      expect(isOpen.at(-1)?.isClosed).toBe(false)
      const client = await TestClient.connect(server.port)
      for (const one of [...others, client]) one.close()
    }))

  test("a full server refuses at once, and does not wait for HELLO", () =>
    withServer({ maxClients: 1 }, async (server) => {
      const first = await TestClient.connect(server.port)
      const started = performance.now()
      const second = await TestClient.open(server.port)
      await second.closed
      expect(performance.now() - started).toBeLessThan(1000)
      await server.logged("turned away: a client is connected already")
      first.close()
    }))
})

const SECRET = Array.from({ length: 16 }, (_, index) => 1234.5678 + index)

/** Takes a buffer and fills it with a secret; sends a graph that is refused, unless it just leaves. */
const leaveSecret = async (
  { port, processIds }: TestServer,
  how: "refused" | "leaves" | "frees",
): Promise<void> => {
  const client = await TestClient.connect(port)
  const buffer = await client.allocate(1024 * 1024)
  const tensor = f32Tensor(1, buffer, 0, [16])
  client.setTensor(tensor, floats(...SECRET))
  expect(await client.getTensor(tensor, 64)).toEqual(floats(...SECRET))
  expect(memoryHolds(processIds()[0]!, floats(...SECRET))).toBe(true)
  if (how === "refused") {
    await refuseGraph(client, buffer)
    return
  }
  if (how === "frees") client.send(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
  await client.ask(Command.DEVICE_COUNT, {})
  client.close()
}

const refuseGraph = async (client: TestClient, buffer: TestBuffer): Promise<void> => {
  const a = f32Tensor(1, buffer, 0, [4])
  const outside = f32Tensor(2, buffer, 1 << 30, [4], node("ADD", 1, 1))
  client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [2n], tensors: [a, outside] })
  await client.closed
}

describe("a process that ran no graph", () => {
  test.each(["refused", "leaves", "frees"] as const)(
    "serves another client, who finds nothing of the first: %s",
    (how) =>
      withServer({}, async (server) => {
        const [pid] = server.processIds()
        await leaveSecret(server, how)
        await waitFor("the first is gone", () => server.clientCount() === 0)
        expect(memoryHolds(pid!, floats(...SECRET))).toBe(false)
        const client = await TestClient.connect(server.port)
        expect(server.processIds()).toEqual([pid!])
        const buffer = await client.allocate(1024 * 1024)
        // Handles and addresses tell nothing either.
        expect(buffer).toEqual({ remotePtr: 1n, basePtr: 1n << 44n })
        const all = f32Tensor(1, buffer, 0, [256 * 1024])
        const found = await client.getTensor(all, 1024 * 1024)
        expect(found.every((byte) => byte === 0)).toBe(true)
        client.close()
      }),
  )

  test("is refused the graphs and buffers of the client before", () =>
    withServer({}, async (server) => {
      const [pid] = server.processIds()
      await leaveSecret(server, "leaves")
      await waitFor("the first is gone", () => server.clientCount() === 0)
      const client = await TestClient.connect(server.port)
      client.send(Command.BUFFER_GET_BASE, { remotePtr: 1n })
      await client.closed
      await server.logged("remote_ptr is no buffer of this connection")
      expect(server.processIds()).toEqual([pid!])
    }))
})

describe("a process that ran a graph", () => {
  test.each(["refused", "leaves"] as const)("serves nobody else: %s", (how) =>
    withServer({}, async (server) => {
      const [pid] = server.processIds()
      const client = await TestClient.connect(server.port)
      const buffer = await computeOnce(client)
      if (how === "refused") await refuseGraph(client, buffer)
      else client.close()
      await waitFor("its end", () => !server.processIds().includes(pid!))
      const next = await TestClient.connect(server.port)
      expect((await next.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      next.close()
    }),
  )
})

describe("clients in a loop", () => {
  /** Runs loops of clients for a while; how often they came around. */
  const loop = async (
    count: number,
    ms: number,
    round: () => Promise<unknown>,
  ): Promise<number> => {
    const end = performance.now() + ms
    let rounds = 0
    const one = async (): Promise<void> => {
      while (performance.now() < end) {
        await Promise.race([round(), Bun.sleep(end - performance.now())])
        rounds++
      }
    }
    await Promise.all(Array.from({ length: count }, one))
    return rounds
  }

  const beRefused = async (port: number): Promise<void> => {
    const client = await TestClient.open(port)
    client.write(Buffer.concat([hello, Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0, 0)]))
    await client.closed
  }

  test("of refused requests share few processes, are slowed down, and fill a few lines of the log", () =>
    withServer({}, async (server) => {
      let rounds = 0
      const seen = await processesDuring(server, async () => {
        rounds = await loop(20, 3000, () => beRefused(server.port))
      })
      // 64 at once, and 20 a second.
      expect(rounds).toBeLessThan(64 + 20 * 3 + 60)
      expect(rounds).toBeGreaterThan(20)
      expect(seen.size).toBeLessThan(12)
      // That they come, and that they are refused: each once, and once with a count.
      const lines = server.log.filter(({ level }) => level !== "debug")
      expect(lines.length).toBeLessThanOrEqual(4)
    }))

  test("that spend a process each soon have to wait for one", () =>
    withServer({}, async (server) => {
      const spend = async (): Promise<void> => {
        const client = await TestClient.connect(server.port)
        await refuseGraph(client, await computeOnce(client))
      }
      const seen = await processesDuring(server, () => loop(4, 10_000, spend))
      // Each refusal counts as a dozen starts: a burst of about five, and then one every other second.
      expect(seen.size).toBeLessThan(16)
    }))

  test("are not slowed down where the limits are off", () =>
    withServer({ addressLimits: false }, async (server) => {
      const started = performance.now()
      for (let rounds = 0; rounds < 400; rounds += 20) {
        await Promise.all(Array.from({ length: 20 }, () => beRefused(server.port)))
      }
      // With them it takes 17 s.
      expect(performance.now() - started).toBeLessThan(14_000)
    }))

  test("at one address do not hold up another", () =>
    withServer({ host: "::" }, async (server) => {
      let isDone = false
      const looping = (async () => {
        while (!isDone) {
          await Promise.race([
            Promise.all(Array.from({ length: 20 }, () => beRefused(server.port))),
            Bun.sleep(500),
          ])
        }
      })()
      await Bun.sleep(1000)
      const times: number[] = []
      for (let round = 0; round < 10; round++) {
        const started = performance.now()
        const client = await TestClient.connect(server.port, { host: "::1" })
        times.push(performance.now() - started)
        client.close()
        await Bun.sleep(50)
      }
      isDone = true
      await looping
      // Of the looping address, twenty wait for a turn each 50 ms.
      expect(times.sort((a, b) => a - b)[5]).toBeLessThan(300)
    }))
})

describe("a queue for processes", () => {
  test("is fair between addresses", () =>
    withServer({ host: "::" }, async (server) => {
      const order: string[] = []
      const clients: TestClient[] = []
      const stay = async (host: string): Promise<void> => {
        const client = await TestClient.connect(server.port, { host })
        order.push(host)
        clients.push(client)
      }
      const many = 4 + 4 * availableParallelism()
      const all = Array.from({ length: many }, () => stay("127.0.0.1"))
      await waitFor("most wait", () => server.clientCount() >= many)
      all.push(stay("::1"))
      await Promise.all(all)
      // Behind the first, those whose processes had begun to start, and one more.
      expect(order.indexOf("::1")).toBeLessThan(4 + availableParallelism())
      for (const client of clients) client.close()
    }))

  test("that fills the server gives way to other addresses, newest first", () =>
    withServer({ host: "::", maxClients: 12 }, async (server) => {
      const connect = (host: string) =>
        TestClient.connect(server.port, { host }).then(
          (client) => client,
          () => undefined,
        )
      const many = Array.from({ length: 12 }, () => connect("127.0.0.1"))
      await waitFor("it is full", () => server.clientCount() === 12)
      const other = await connect("::1")
      expect(other).toBeDefined()
      await server.logged("127.0.0.1:", "turned away: 12 clients are connected already")
      const clients = await Promise.all(many)
      expect(clients.filter((client) => client === undefined)).toHaveLength(1)
      for (const client of [...clients, other]) client?.close()
    }))
})
