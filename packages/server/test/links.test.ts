/** COMM commands: no link is made, and a server that waits for one is freed where that is safe. */
import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { f32Tensor, TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const link = (rank: number, port: number, host: string, worldSize = 2) => ({
  ...{ device: 0, rank, worldSize, port, host },
})

/** Listens as a server does that waits for another one, and counts who comes. */
const waitingServer = () => {
  const seen = { opened: 0, bytes: 0 }
  const { promise: left, resolve } = Promise.withResolvers<void>()
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: () => void seen.opened++,
      data: (_, data) => {
        seen.bytes += data.length
      },
      close: () => resolve(),
    },
  })
  return { seen, left, port: listener.port, stop: () => listener.stop(true) }
}

test("COMM_INIT is answered with 0 and COMM_FREE is heard, and the connection lives", () =>
  withServer({}, async ({ port }) => {
    const client = await TestClient.connect(port)
    for (const request of [
      link(0, 51052, ""),
      link(2, 51052, ""),
      link(0, 51052, "", 3),
      { ...link(0, 51052, ""), device: 9 },
    ]) {
      expect((await client.ask(Command.COMM_INIT, request)).result).toBe(0)
    }
    client.send(Command.COMM_FREE, { device: 0 })
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    client.close()
  }))

test("a server of this machine that waits for the link is dialled, and hears nothing", () =>
  withServer({}, async ({ port }) => {
    const waiting = waitingServer()
    const client = await TestClient.connect(port)
    const { result } = await client.ask(Command.COMM_INIT, link(1, waiting.port, "127.0.0.1"))
    expect(result).toBe(0)
    await waiting.left
    expect(waiting.seen).toEqual({ opened: 1, bytes: 0 })
    // Asked a second time, it dials a second time; its client may have made another context.
    await client.ask(Command.COMM_INIT, link(1, waiting.port, "127.0.0.1"))
    for (let tries = 0; waiting.seen.opened < 2 && tries < 500; tries++) await Bun.sleep(10)
    expect(waiting.seen).toEqual({ opened: 2, bytes: 0 })
    waiting.stop()
    client.close()
  }))

test("a server that listens later is found", () =>
  withServer({}, async ({ port }) => {
    const reserved = waitingServer()
    reserved.stop()
    const client = await TestClient.connect(port)
    await client.ask(Command.COMM_INIT, link(1, reserved.port, "127.0.0.1"))
    await Bun.sleep(400)
    const { promise, resolve } = Promise.withResolvers<void>()
    const listener = Bun.listen({
      hostname: "127.0.0.1",
      port: reserved.port,
      socket: { open() {}, data() {}, close: () => resolve() },
    })
    await promise
    listener.stop(true)
    client.close()
  }))

test.each([
  ["an address of the internet", "8.8.8.8", 51052],
  ["a name", "localhost", 51052],
  ["nothing", "", 51052],
  ["a port of the system", "127.0.0.1", 22],
  ["no port", "127.0.0.1", 0],
  ["a port that there is not", "127.0.0.1", 70_000],
  ["text with a line of its own", "127.0.0.1\nerror: x", 51052],
])("%s is not dialled, which the log says on one line", (_, host, linkPort) =>
  withServer({}, async ({ port, logged, log }) => {
    const client = await TestClient.connect(port)
    expect((await client.ask(Command.COMM_INIT, link(1, linkPort, host))).result).toBe(0)
    const line = await logged("wants a link to", `:${linkPort}`, "GGML_RPC_NO_COMM=1")
    expect(line).not.toInclude("\n")
    expect(log.filter(({ level }) => level === "warning")).toHaveLength(1)
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    client.close()
  }),
)

test("COMM_ALLREDUCE, which no client sends after a 0, ends the connection", () =>
  withServer({}, async ({ port, logged }) => {
    const client = await TestClient.connect(port)
    const tensor = f32Tensor(1, await client.allocate(64), 0, [4])
    client.send(Command.COMM_ALLREDUCE, { device: 0, tensor })
    await client.closed
    await logged("COMM_ALLREDUCE", "has no link to another server")
  }))

test("COMM_FREE of a device that does not exist ends the connection", () =>
  withServer({}, async ({ port, logged }) => {
    const client = await TestClient.connect(port)
    client.send(Command.COMM_FREE, { device: 1 })
    await client.closed
    await logged("COMM_FREE", "device must be below the device count 1")
  }))
