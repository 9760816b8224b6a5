/** What happens to one client's session stays there. */
import { describe, expect, test } from "bun:test"
import { Command, type RpcTensor } from "@ggml-rpc/protocol"
import { endlessProduct, sendDoubling } from "./graphs.ts"
import { addressBytes, isAlive, largest, residentBytes, waitFor } from "./processes.ts"
import { f32Tensor, floats, node, TestClient, toFloats } from "./TestClient.ts"
import { type TestServer, withServer } from "./withServer.ts"

/** A client that computes `a + a` over and over and checks the result. */
const startWitness = async (port: number) => {
  const client = await TestClient.connect(port)
  const { a, sum } = await sendDoubling(client)
  let rounds = 0
  let running = true
  const loop = (async () => {
    while (running) {
      client.setTensor(a, floats(rounds, 1, 2, 3))
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
      expect(toFloats(await client.getTensor(sum, 16))).toEqual([2 * rounds, 2, 4, 6])
      rounds++
      await Bun.sleep(1)
    }
  })()
  return {
    rounds: () => rounds,
    stop: async () => {
      running = false
      await loop
      client.close()
    },
  }
}

/** Runs `use` beside a witness, and checks that the witness went on afterwards. */
const besideWitness = (use: (server: TestServer) => Promise<void>): Promise<void> =>
  withServer({}, async (server) => {
    const witness = await startWitness(server.port)
    await use(server)
    const before = witness.rounds()
    await waitFor("the witness goes on", () => witness.rounds() > before + 2)
    await witness.stop()
  })

const MIB = 1024 * 1024

/** Allocates, fills, and thereby makes resident. */
const fill = async (client: TestClient, sizeBytes: number): Promise<RpcTensor> => {
  const buffer = await client.allocate(sizeBytes)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 1 })
  const tensor = f32Tensor(1, buffer, 0, [sizeBytes / 4])
  await client.getTensor(tensor, 4)
  return tensor
}

describe("a session that dies", () => {
  test.each(["SIGKILL", "SIGSEGV"] as const)("by %s", (signal) =>
    besideWitness(async (server) => {
      const client = await TestClient.connect(server.port)
      await fill(client, 64 * MIB)
      const pid = largest(server.processIds())
      process.kill(pid, signal)
      await client.closed
      await server.logged("session of 127.0.0.1", "died:", signal)
      expect(isAlive(pid)).toBe(false)
      // The next client finds a process.
      const next = await TestClient.connect(server.port)
      expect((await next.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      next.close()
    }),
  )
})

/** Of what `fill` put there; a process that ran no graph goes on. */
const isFree = (pid: number): boolean => !isAlive(pid) || residentBytes(pid) < 128 * MIB

describe("a client that goes", () => {
  test.each(["close", "reset"] as const)("by %s frees its memory", (how) =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      await fill(client, 256 * MIB)
      const pid = largest(server.processIds())
      expect(residentBytes(pid)).toBeGreaterThan(256 * MIB)
      client[how]()
      expect(await waitFor("its memory is free", () => isFree(pid))).toBeLessThan(2000)
    }),
  )

  test("in mid-upload frees its memory", () =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      const tensor = await fill(client, 256 * MIB)
      const pid = largest(server.processIds())
      const header = new Uint8Array(9)
      header[0] = Command.SET_TENSOR
      new DataView(header.buffer).setBigUint64(1, BigInt(305 + 256 * MIB), true)
      client.write(header)
      client.send(Command.INIT_TENSOR, { tensor })
      client.write(new Uint8Array(10 * MIB))
      await client.flushed()
      client.reset()
      expect(await waitFor("its memory is free", () => isFree(pid))).toBeLessThan(2000)
    }))

  test.each(["close", "reset", "shutdown"] as const)(
    "in mid-computation stops the graph and frees its memory: %s",
    (how) =>
      besideWitness(async (server) => {
        const client = await TestClient.connect(server.port)
        const buffer = await client.allocate(64 * MIB)
        client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
        await client.ask(Command.DEVICE_COUNT, {})
        const pid = largest(server.processIds())
        // 2000 products of 1024x1024 matrices: minutes on one thread.
        const a = f32Tensor(1, buffer, 0, [1024, 1024])
        const tensors = [a]
        const nodes: bigint[] = []
        for (let id = 2; id < 2002; id++) {
          tensors.push(f32Tensor(id, buffer, 8 * MIB, [1024, 1024], node("MUL_MAT", 1, 1)))
          nodes.push(BigInt(id))
        }
        client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes, tensors })
        await Bun.sleep(300)
        expect(isAlive(pid)).toBe(true)
        client[how]()
        expect(await waitFor("the process ends", () => !isAlive(pid))).toBeLessThan(2000)
      }),
  )

  test("in mid-operation, which no flag stops, is given a second", () =>
    withServer({}, async (server) => {
      const client = await TestClient.connect(server.port)
      const { start } = await endlessProduct(client)
      const pid = largest(server.processIds())
      start()
      await Bun.sleep(300)
      expect(isAlive(pid)).toBe(true)
      client.reset()
      const ended = await waitFor("the process ends", () => !isAlive(pid))
      expect(ended).toBeGreaterThan(500)
      expect(ended).toBeLessThan(2000)
    }))
})

test("a process that gets no more memory from the system says so to its client, and goes on", () =>
  besideWitness(async (server) => {
    const others = new Set(server.processIds())
    const client = await TestClient.connect(server.port)
    const [pid] = server.processIds().filter((each) => !others.has(each))
    const limit = addressBytes(pid!) + 512 * MIB
    const limiting = Bun.spawnSync(["prlimit", "--pid", String(pid), `--as=${limit}:${limit}`])
    expect(limiting.exitCode).toBe(0)
    const ask = (sizeBytes: number) =>
      client.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes: BigInt(sizeBytes) })
    expect(await ask(600 * MIB)).toEqual({ remotePtr: 0n, remoteSizeBytes: 0n })
    const tensor = await fill(client, MIB)
    expect(toFloats(await client.getTensor(tensor, 4))).toHaveLength(1)
    client.close()
  }))
