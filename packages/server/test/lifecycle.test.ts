/** Connections, processes and the end of a server. */
import { describe, expect, test } from "bun:test"
import { join } from "node:path"
import { Command, encodeRequest, newest, noConnCaps, offers } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { serve } from "../src/index.ts"
import { computeOnce, sendDoubling } from "./graphs.ts"
import { isAlive, largest, residentBytes, waitFor } from "./processes.ts"
import { f32Tensor, floats, node, TestClient, toFloats } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const MIB = 1024 * 1024
const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })

describe("connections", () => {
  test("20 clients at once each compute their own", () =>
    withServer({}, async (server) => {
      const serveOne = async (number: number): Promise<TestClient> => {
        const client = await TestClient.connect(server.port)
        const { a, sum } = await sendDoubling(client)
        client.setTensor(a, floats(number, 0, 0, 0))
        client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
        expect(toFloats(await client.getTensor(sum, 16))).toEqual([2 * number, 0, 0, 0])
        return client
      }
      const clients = await Promise.all(Array.from({ length: 20 }, (_, index) => serveOne(index)))
      expect(server.clientCount()).toBe(20)
      for (const client of clients) client.close()
      await waitFor("all are gone", () => server.clientCount() === 0)
    }))

  test("another process waits as soon as a client has left that computed", () =>
    withServer({}, async (server) => {
      const [first] = server.processIds()
      const client = await TestClient.connect(server.port)
      await computeOnce(client)
      client.close()
      const left = performance.now()
      await waitFor("the next process", () => {
        const waiting = server.processIds()
        return waiting.length === 1 && waiting[0] !== first
      })
      // A client that stays gets a spare behind it after half a minute; this one did not stay.
      expect(performance.now() - left).toBeLessThan(4000)
    }))

  test("200 connections that only say HELLO share a few processes", () =>
    withServer({}, async (server) => {
      const seen = new Set(server.processIds())
      for (let index = 0; index < 200; index++) {
        const client = await TestClient.connect(server.port)
        client.close()
        for (const pid of server.processIds()) seen.add(pid)
      }
      expect(seen.size).toBeLessThan(8)
      // One line for each older version that is offered, and then none.
      const lines = server.log.filter(({ level }) => level === "warning" || level === "error")
      expect(lines.map(({ level }) => level)).toEqual(offers(true).map(() => "warning"))
    }))

  test("connections without a word are harmless", () =>
    withServer({}, async (server) => {
      for (let index = 0; index < 20; index++) (await TestClient.open(server.port)).close()
      const client = await TestClient.connect(server.port)
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      client.close()
    }))

  test("byte by byte is as good as all at once", () =>
    withServer({}, async (server) => {
      const client = await TestClient.open(server.port)
      const alloc = encodeRequest(Command.ALLOC_BUFFER, { device: 0, sizeBytes: 64n })
      for (const byte of Buffer.concat([hello, alloc])) {
        client.write(Uint8Array.of(byte))
        await Bun.sleep(0)
      }
      expect((await client.answer(Command.HELLO)).major).toBe(newest.version.major)
      const { remotePtr } = await client.answer(Command.ALLOC_BUFFER)
      const { basePtr } = await client.ask(Command.BUFFER_GET_BASE, { remotePtr })
      const tensor = f32Tensor(1, { remotePtr, basePtr }, 0, [4])
      const data = floats(1, 2, 3, 4)
      const set = encodeRequest(Command.SET_TENSOR, { tensor, cacheFlag: 0, offsetBytes: 0n, data })
      for (const byte of set) {
        client.write(Uint8Array.of(byte))
        if (byte % 16 === 0) await Bun.sleep(0)
      }
      expect(await client.getTensor(tensor, 16)).toEqual(data)
      client.close()
    }))

  test("many requests in one write get their answers in order", () =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      const { remotePtr } = await client.allocate(1 << 20)
      const alignment = encodeRequest(Command.GET_ALIGNMENT, { device: 0 })
      const base = encodeRequest(Command.BUFFER_GET_BASE, { remotePtr })
      const rounds = 20_000
      client.write(Buffer.concat(Array.from({ length: rounds }, () => [alignment, base]).flat()))
      for (let round = 0; round < rounds; round++) {
        expect((await client.answer(Command.GET_ALIGNMENT)).alignmentBytes).toBeLessThan(4096n)
        expect((await client.answer(Command.BUFFER_GET_BASE)).basePtr).toBeGreaterThan(4096n)
      }
      client.close()
    }))

  test("half a header, then the end", () =>
    withServer({}, async (server) => {
      for (const size of [1, 8, 9, 20]) {
        const client = await TestClient.open(server.port)
        client.write(hello.subarray(0, size))
        await client.flushed()
        client.close()
      }
      await waitFor("all are gone", () => server.clientCount() === 0)
      expect(server.log.filter(({ level }) => level === "error")).toEqual([])
    }))

  test("a connection that does not say HELLO is closed", () =>
    withServer({ helloTimeoutMs: 100 }, async (server) => {
      const silent = await TestClient.open(server.port)
      await silent.closed
      await server.logged("left (said no HELLO in time")
      // The limit ends with HELLO.
      const slow = await TestClient.connect(server.port)
      await Bun.sleep(300)
      expect((await slow.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      slow.close()
    }))

  test("more clients than allowed are turned away, and let in later", () =>
    withServer({ maxClients: 2 }, async (server) => {
      const first = await TestClient.connect(server.port)
      const second = await TestClient.connect(server.port)
      const third = await TestClient.open(server.port)
      await third.closed
      await server.logged("turned away: 2 clients are connected already")
      first.close()
      await waitFor("the first is gone", () => server.clientCount() === 1)
      const fourth = await TestClient.connect(server.port)
      expect((await fourth.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      second.close()
      fourth.close()
    }))

  test("IPv6", () =>
    withServer({ host: "::1" }, async (server) => {
      expect(server.endpoint).toBe(`[::1]:${server.port}`)
      const client = await TestClient.connect(server.port, { host: "::1" })
      client.write(Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0, 0))
      await server.logged("[::1]:", "command is unknown (got 99)")
    }))
})

describe("memory", () => {
  test("does not grow with the size of a message", () =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      const sizeBytes = 256 * MIB
      const buffer = await client.allocate(sizeBytes)
      client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
      const tensor = f32Tensor(1, buffer, 0, [sizeBytes / 4])
      await client.getTensor(tensor, 4)
      const pid = largest(server.processIds())
      const before = residentBytes(pid)
      const data = new Uint8Array(sizeBytes).fill(7)
      client.setTensor(tensor, data)
      const read = await client.getTensor(tensor, sizeBytes)
      expect(Buffer.compare(read, data)).toBe(0)
      expect(residentBytes(pid) - before).toBeLessThan(8 * MIB)
      client.close()
    }))

  test("a size is announced, but no memory taken for it", () =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      const header = new Uint8Array(9)
      header[0] = Command.GRAPH_COMPUTE
      new DataView(header.buffer).setBigUint64(1, BigInt(64 * MIB), true)
      client.write(header)
      client.write(new Uint8Array(1000))
      await client.flushed()
      await Bun.sleep(100)
      for (const pid of server.processIds()) expect(residentBytes(pid)).toBeLessThan(100 * MIB)
      client.close()
    }))
})

describe("the end", () => {
  test("closing the scope ends sessions, computing ones too, and frees the port", async () => {
    const pids = await withServer({}, async (server) => {
      const idle = await TestClient.connect(server.port)
      const busy = await TestClient.connect(server.port)
      const buffer = await busy.allocate(64 * MIB)
      const a = f32Tensor(1, buffer, 0, [2048, 2048])
      const c = f32Tensor(2, buffer, 32 * MIB, [2048, 2048], node("MUL_MAT", 1, 1))
      const nodes = Array.from({ length: 1000 }, () => 2n)
      busy.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes, tensors: [a, c] })
      await Bun.sleep(200)
      expect(idle.isClosed || busy.isClosed).toBe(false)
      return [server.port, ...server.processIds()]
    })
    const [port, ...sessions] = pids
    expect(sessions.length).toBeGreaterThanOrEqual(2)
    for (const pid of sessions) expect(isAlive(pid)).toBe(false)
    await withServer({ port: port! }, async (server) => expect(server.port).toBe(port!))
  })

  test("sessions end with a front process that is killed", async () => {
    const script = join(import.meta.dir, "front.ts")
    const front = Bun.spawn([process.execPath, script], { stdout: "pipe", stderr: "inherit" })
    const reader = front.stdout.getReader()
    const first = new TextDecoder().decode((await reader.read()).value)
    const { port, pids } = JSON.parse(first) as { port: number; pids: number[] }
    const client = await TestClient.connect(port)
    await client.allocate(4096)
    front.kill("SIGKILL")
    await client.closed
    await waitFor("the sessions end", () => !pids.some(isAlive), 2000)
    reader.releaseLock()
  })
})

describe("what does not start", () => {
  const failure = (options: Parameters<typeof serve>[0]) =>
    Effect.runPromise(
      Effect.either(Effect.scoped(serve({ port: 0, log: () => {}, ...options }))),
    ).then((result) => {
      if (Either.isRight(result)) throw new Error("it started")
      return result.left
    })

  test("a port in use", () =>
    withServer({}, async (server) => {
      const error = await failure({ port: server.port })
      expect(error._tag).toBe("PortInUseError")
      expect(error.message).toContain(`127.0.0.1:${server.port} is in use by another program`)
    }))

  test("an address of another machine", async () => {
    const error = await failure({ host: "192.0.2.1" })
    expect(error._tag).toBe("ListenError")
    expect(error.message).toContain("Cannot listen on 192.0.2.1:0")
  })

  test("an unknown device", async () => {
    const error = await failure({ devices: ["CPU", "CUDA7"] })
    expect(error._tag).toBe("UnknownDeviceError")
    expect(error.message).toMatch(
      /^There is no device CUDA7\. Available devices:\n {2}CPU: .* MiB free\)$/m,
    )
  })

  test("libraries that are not there, with one message and no log line", async () => {
    const before = process.env.GGML_RPC_VARIANT
    process.env.GGML_RPC_VARIANT = "source"
    process.env.GGML_RPC_BUILD_DIR = "/nonexistent"
    const log: string[] = []
    try {
      const error = await failure({ log: ({ message }) => log.push(message) })
      expect(error._tag).toBe("SessionStartError")
      expect(error.message).toContain("names the library set 'source', which is not installed")
      expect(log).toEqual([])
    } finally {
      delete process.env.GGML_RPC_BUILD_DIR
      if (before === undefined) delete process.env.GGML_RPC_VARIANT
      else process.env.GGML_RPC_VARIANT = before
    }
  })

  test("a cache folder that cannot be made", async () => {
    const error = await failure({ cacheDir: "/dev/null/cache" })
    expect(error._tag).toBe("CacheFolderError")
    expect(error.message).toContain("/dev/null/cache")
  })
})
