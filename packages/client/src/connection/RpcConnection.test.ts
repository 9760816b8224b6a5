/** A connection over a pair of local sockets; the test is the server. */
import { ptr } from "bun:ffi"
import { afterEach, describe, expect, test } from "bun:test"
import { type Address, io, socketPair } from "@ggml-rpc/native/bindings"
import { Command, Dialect, encodeResponse, findVersion, versions } from "@ggml-rpc/protocol"
import { OUTBOX_BYTES } from "./Outbox.ts"
import { RELAY_LIMIT_BYTES } from "./RequestStream.ts"
import { RpcConnection } from "./RpcConnection.ts"

const cleanups: Array<() => void> = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

/** A wait for what never comes ends as a failure. */
const SILENCE_MS = 300
/** Of workers, which have to start first. */
const LONG_SILENCE_MS = 20_000

const connect = (silenceMs = SILENCE_MS) => {
  const [near, far] = socketPair()
  const connection = new RpcConnection({ host: "test", port: 1 })
  // As if it were past HELLO.
  Object.assign(connection, { fd: near })
  connection.beginWork(silenceMs)
  cleanups.push(() => connection.close())
  cleanups.push(() => io().io_close(far))
  return { connection, far }
}

/** A request of `sizeBytes` that is answered with `answerBytes`. */
const read = (connection: RpcConnection, answerBytes: number, sizeBytes = 10) => {
  const target = new Uint8Array(answerBytes)
  connection.block.fill(Command.GET_TENSOR, connection.reserve(sizeBytes))
  return { target, ticket: connection.expect(ptr(target) as Address, answerBytes) }
}

const write = (connection: RpcConnection, sizeBytes: number): void => {
  connection.reserve(sizeBytes)
}

const answer = (far: number, ...data: ReadonlyArray<number>): void => {
  const response = encodeResponse(Command.GET_TENSOR, { data: Uint8Array.from(data) })
  io().io_send(far, response, response.length)
}

/** Bytes that have arrived at the server and were not taken yet. */
const arrived = (far: number): number => {
  const chunk = new Uint8Array(1024 * 1024)
  return io().io_wait_readable(far, 0) > 0 ? io().io_recv(far, chunk, chunk.length) : 0
}

describe("a read", () => {
  test("does not wait for the answers to those that were asked for later", () => {
    const { connection, far } = connect()
    const first = read(connection, 2)
    const second = read(connection, 2)
    answer(far, 1, 2)
    connection.drainTo(first.ticket)
    expect(connection.failure).toBeUndefined()
    expect([...first.target]).toEqual([1, 2])
    expect([...second.target]).toEqual([0, 0])
    answer(far, 3, 4)
    connection.drainTo(second.ticket)
    expect([...second.target]).toEqual([3, 4])
  })

  test("puts earlier answers where they belong on its way, and they are waited for no more", () => {
    const { connection, far } = connect()
    const first = read(connection, 1)
    const second = read(connection, 3)
    answer(far, 5)
    answer(far, 6, 7, 8)
    connection.drainTo(second.ticket)
    expect([[...first.target], [...second.target]]).toEqual([[5], [6, 7, 8]])
    connection.drainTo(first.ticket)
    expect(connection.failure).toBeUndefined()
  })

  test("leaves in one write with what came before, once somebody waits", () => {
    const { connection, far } = connect()
    write(connection, 100)
    const { ticket } = read(connection, 1)
    expect(arrived(far)).toBe(0)
    answer(far, 9)
    connection.drainTo(ticket)
    expect(arrived(far)).toBe(110)
  })

  test("lets what other servers have to do leave before it waits", () => {
    const one = connect()
    const other = connect()
    one.connection.peers = [one.connection, other.connection]
    write(other.connection, 70)
    const { ticket } = read(one.connection, 1)
    answer(one.far, 1)
    one.connection.drainTo(ticket)
    expect(arrived(other.far)).toBe(70)
  })

  test("that failed is over, and with it all others of the connection", () => {
    const { connection, far } = connect()
    const reads = [read(connection, 1), read(connection, 1), read(connection, 1)]
    answer(far, 1)
    connection.drainTo(reads[1]!.ticket)
    expect(connection.failure).toMatchObject({
      ...{ _tag: "ServerTimeoutError", during: "GET_TENSOR", silenceMs: 300 },
    })
    answer(far, 2)
    connection.drainTo(reads[2]!.ticket)
    expect(reads.map(({ target }) => target[0])).toEqual([1, 0, 0])
  })

  test("is taken off the wire while a server reads nothing before it is rid of its answer", async () => {
    const { connection, far } = connect(LONG_SILENCE_MS)
    const answerBytes = 24 * 1024 * 1024
    const first = read(connection, answerBytes)
    const data = new Uint8Array(24 * 1024 * 1024).fill(7)
    // Takes a request, writes the answer, and only then reads what follows.
    const server = new Worker(new URL("stuckServer.testWorker.ts", import.meta.url))
    const taken = new Promise<number>((resolve) => {
      server.onmessage = ({ data: sum }) => resolve(sum)
    })
    server.postMessage({ far, requestBytes: 10, answerBytes, restBytes: data.length + 10 })
    connection.flush()
    connection.append(ptr(data) as Address, data.length)
    const last = read(connection, 1)
    connection.drainTo(last.ticket)
    expect(connection.failure).toBeUndefined()
    expect([first.target[0], first.target.at(-1), last.target[0]]).toEqual([3, 3, 4])
    expect(await taken).toBe(7 * data.length + 10 * Command.GET_TENSOR)
    server.terminate()
  })

  test("is given up on when its server is silent, and not while another one's is", () => {
    const [one, other] = [connect(), connect(LONG_SILENCE_MS)]
    for (const { connection } of [one, other]) {
      connection.peers = [one.connection, other.connection]
    }
    const { ticket } = read(one.connection, 1)
    const own = read(other.connection, 1)
    for (const { connection } of [one, other]) connection.flush()
    one.connection.drainTo(ticket)
    expect(one.connection.failure).toMatchObject({
      ...{ _tag: "ServerTimeoutError", during: "GET_TENSOR", silenceMs: SILENCE_MS },
    })
    answer(other.far, 5)
    other.connection.drainTo(own.ticket)
    expect([other.connection.failure, own.target[0]]).toEqual([undefined, 5])
  })

  test("names all servers that were silent, and none that was not waited for", () => {
    const [one, other, idle] = connectAll()
    const { ticket } = read(one.connection, 1)
    read(other.connection, 1)
    for (const { connection } of [one, other]) connection.flush()
    one.connection.drainTo(ticket)
    const { failure } = one.connection
    const [endpoint, second] = [one, other].map(({ connection }) => connection.endpoint)
    expect(failure).toMatchObject({ _tag: "ServerTimeoutError", endpoint, others: [second] })
    expect(failure!.message).toStartWith(`The servers ${endpoint}, ${second} were silent`)
    expect(idle.connection.failure).toBeUndefined()
  })

  test("is one of many that never end", () => {
    const { connection, far } = connect()
    let before = read(connection, 1)
    for (let count = 0; count < 2000; count++) {
      const next = read(connection, 1)
      answer(far, count % 256)
      connection.drainTo(before.ticket)
      expect(before.target[0]).toBe(count % 256)
      before = next
      arrived(far)
    }
    expect(connection.failure).toBeUndefined()
  })

  test("comes after the answers that an old server gives to what is silent today", () => {
    const { connection, far } = connect()
    connection.dialect = new Dialect(versions.at(-1)!)
    const sizeBytes = connection.dialect.responseBytes[Command.FREE_BUFFER]!
    const acknowledge = (): void => {
      const response = new Uint8Array(8 + sizeBytes)
      response[0] = sizeBytes
      io().io_send(far, response, response.length)
    }
    const free = (): void => {
      write(connection, 17)
      connection.expectAnswer(Command.FREE_BUFFER)
    }
    free()
    const first = read(connection, 1)
    free()
    const second = read(connection, 1)
    acknowledge()
    answer(far, 1)
    connection.drainTo(first.ticket)
    expect(connection.failure).toBeUndefined()
    expect([first.target[0], second.target[0]]).toEqual([1, 0])
    acknowledge()
    answer(far, 2)
    connection.drainTo(second.ticket)
    expect(second.target[0]).toBe(2)
    expect(connection.failure).toBeUndefined()
  })
})

/** Two servers, and a third connection for whoever needs one. */
const connectAll = (silenceMs?: number) => {
  const all = [connect(silenceMs), connect(silenceMs), connect(silenceMs)] as const
  for (const { connection } of all) connection.peers = all.map((one) => one.connection)
  return all
}

type Connected = ReturnType<typeof connect>

/** A write of `headBytes` and what `source` answers to a read of 10 bytes. */
const relay = (source: Connected, receiver: Connected, sizeBytes: number, headBytes = 4): void => {
  expect(receiver.connection.awaitRelayRoom(sizeBytes)).toBe(true)
  receiver.connection.block.fill(0xaa, receiver.connection.reserve(headBytes))
  const position = receiver.connection.beginRelay(source.connection, sizeBytes)
  source.connection.block.fill(Command.GET_TENSOR, source.connection.reserve(10))
  source.connection.expectRelay(receiver.connection, position, sizeBytes)
}

/** What has arrived. */
const take = (far: number): ReadonlyArray<number> => {
  const chunk = new Uint8Array(1024 * 1024)
  return io().io_wait_readable(far, 0) > 0
    ? [...chunk.subarray(0, io().io_recv(far, chunk, chunk.length))]
    : []
}

describe("a relay", () => {
  test("is a place in both orders: nobody waits for it, and what follows leaves with it in one write", () => {
    const [a, b] = connectAll()
    relay(a, b, 3)
    b.connection.block.fill(0xbb, b.connection.reserve(2))
    const { target, ticket } = read(b.connection, 1)
    expect([arrived(a.far), arrived(b.far)]).toEqual([0, 0])
    a.connection.flush()
    b.connection.flush()
    expect([arrived(a.far), take(b.far)]).toEqual([10, [0xaa, 0xaa, 0xaa, 0xaa]])
    answer(a.far, 1, 2, 3)
    answer(b.far, 9)
    b.connection.drainTo(ticket)
    expect(target[0]).toBe(9)
    expect(take(b.far)).toEqual([1, 2, 3, 0xbb, 0xbb, ...Array(10).fill(Command.GET_TENSOR)])
  })

  test("goes on while somebody waits for a third server, and before an answer that was asked for first", () => {
    const [a, b, c] = connectAll()
    relay(a, b, 2)
    const { ticket } = read(c.connection, 1)
    for (const { connection } of [a, b, c]) connection.flush()
    answer(a.far, 5, 6)
    // Both are here; then what only a wait of the other one moves.
    answer(c.far, 1)
    c.connection.drainTo(ticket)
    relay(a, b, 1)
    const later = read(c.connection, 1)
    answer(a.far, 7)
    answer(c.far, 2)
    c.connection.drainTo(later.ticket)
    expect(take(b.far)).toEqual([0xaa, 0xaa, 0xaa, 0xaa, 5, 6, 0xaa, 0xaa, 0xaa, 0xaa, 7])
  })

  test("comes behind one of another server that answers later", () => {
    const [a, b, c] = connectAll()
    relay(a, c, 2, 1)
    relay(b, c, 2, 1)
    const { ticket } = read(c.connection, 1)
    const before = read(b.connection, 1)
    answer(b.far, 3, 4)
    answer(b.far, 8)
    b.connection.drainTo(before.ticket)
    expect(take(c.far)).toEqual([0xaa])
    answer(a.far, 1, 2)
    answer(c.far, 9)
    c.connection.drainTo(ticket)
    expect(take(c.far).slice(0, 5)).toEqual([1, 2, 0xaa, 3, 4])
  })

  test("hands on what is here of a large answer", () => {
    const [a, b] = connectAll()
    relay(a, b, 1000)
    const { ticket } = read(b.connection, 1)
    for (const { connection } of [a, b]) connection.flush()
    const response = encodeResponse(Command.GET_TENSOR, { data: new Uint8Array(1000).fill(1) })
    io().io_send(a.far, response.subarray(0, 508), 508)
    const other = read(a.connection, 1)
    // Its wait ends in the silence of the server, whose answer breaks off.
    a.connection.drainTo(other.ticket)
    expect(take(b.far)).toHaveLength(504)
    expect(b.connection.failure).toBe(a.connection.failure!)
    b.connection.drainTo(ticket)
  })

  test("whose server is lost ends the other connection as well, by the same error", () => {
    const [a, b, c] = connectAll()
    relay(a, b, 3)
    relay(b, c, 3)
    const { target, ticket } = read(c.connection, 1)
    io().io_shutdown(a.far)
    c.connection.drainTo(ticket)
    const failures = [a, b, c].map(({ connection }) => connection.failure)
    expect(failures[0]).toMatchObject({ _tag: "ServerLostError", during: "GET_TENSOR" })
    expect(failures.every((failure) => failure === failures[0])).toBe(true)
    expect(target[0]).toBe(0)
    expect(b.connection.awaitRelayRoom(3)).toBe(false)
  })

  test("to a server that is lost leaves the other one as it is", () => {
    const [a, b] = connectAll()
    relay(a, b, 3)
    const { ticket } = read(b.connection, 1)
    io().io_shutdown(b.far)
    const own = read(a.connection, 1)
    b.connection.flush()
    answer(a.far, 1, 2, 3)
    answer(a.far, 4)
    b.connection.drainTo(ticket)
    expect(b.connection.failure).toMatchObject({ _tag: "ServerLostError" })
    a.connection.drainTo(own.ticket)
    expect([a.connection.failure, own.target[0]]).toEqual([undefined, 4])
  })

  test("comes behind the acknowledgements of an old server", () => {
    const [a, b] = connectAll()
    a.connection.dialect = new Dialect(findVersion("3.0.0")!)
    a.connection.reserve(5)
    a.connection.expectAnswer(Command.INIT_TENSOR)
    relay(a, b, 2)
    const { ticket } = read(b.connection, 1)
    io().io_send(a.far, new Uint8Array(8), 8)
    answer(a.far, 1, 2)
    answer(b.far, 3)
    b.connection.drainTo(ticket)
    expect(take(b.far).slice(4, 6)).toEqual([1, 2])
    expect(a.connection.failure).toBeUndefined()
  })

  test("of more than the outbox is for is none; many wait for room, and hold no more than it", async () => {
    const [a, b] = connectAll(LONG_SILENCE_MS)
    expect(b.connection.awaitRelayRoom(RELAY_LIMIT_BYTES + 1)).toBe(false)
    const sizeBytes = 5 * 1024 * 1024
    const count = 12
    const servers = new Worker(new URL("relayServers.testWorker.ts", import.meta.url))
    const sums = new Promise((resolve) => {
      servers.onmessage = ({ data }) => resolve(data)
    })
    servers.postMessage({ source: a.far, receiver: b.far, sizeBytes, count })
    for (let index = 0; index < count; index++) {
      relay(a, b, sizeBytes)
      expect(b.connection.heldBytes).toBeLessThanOrEqual(OUTBOX_BYTES)
    }
    const { target, ticket } = read(b.connection, 1)
    b.connection.drainTo(ticket)
    expect([b.connection.failure, target[0]]).toEqual([undefined, 99])
    expect(b.connection.heldBytes).toBe(0)
    expect(await sums).toEqual(Array.from({ length: count }, (_, index) => index))
    servers.terminate()
  })
})

describe("an answer of an old version to what is silent today", () => {
  const old = () => {
    const connected = connect()
    connected.connection.dialect = new Dialect(findVersion("3.0.0")!)
    return connected
  }

  /** A request as 3.0.0 answers it. */
  const request = (connection: RpcConnection, command: number): void => {
    connection.block.fill(command, connection.reserve(10))
    connection.expectAnswer(command)
  }

  const acknowledge = (far: number): void => {
    const response = new Uint8Array(8)
    io().io_send(far, response, response.length)
  }

  const tellStatus = (far: number, status: number): void => {
    const { spec } = new Dialect(findVersion("3.0.0")!)
    const response = encodeResponse(Command.GRAPH_COMPUTE, { status }, spec)
    io().io_send(far, response, response.length)
  }

  test("is taken in its turn, and nobody waits for it", () => {
    const { connection, far } = old()
    request(connection, Command.INIT_TENSOR)
    const first = read(connection, 1)
    request(connection, Command.GRAPH_COMPUTE)
    const second = read(connection, 1)
    expect(arrived(far)).toBe(0)
    acknowledge(far)
    answer(far, 1)
    tellStatus(far, 0)
    answer(far, 2)
    connection.drainTo(second.ticket)
    expect(connection.failure).toBeUndefined()
    expect([first.target[0], second.target[0]]).toEqual([1, 2])
    expect(arrived(far)).toBe(40)
  })

  test("comes before that to a question", () => {
    const { connection, far } = old()
    request(connection, Command.FREE_BUFFER)
    acknowledge(far)
    const response = encodeResponse(Command.DEVICE_COUNT, { deviceCount: 3 })
    io().io_send(far, response, response.length)
    expect(connection.call(Command.DEVICE_COUNT, {})).toEqual({ deviceCount: 3 })
  })

  test("that a graph failed breaks the connection, and says with which status", () => {
    const { connection, far } = old()
    request(connection, Command.GRAPH_COMPUTE)
    const { ticket } = read(connection, 1)
    tellStatus(far, 0xff)
    answer(far, 1)
    connection.drainTo(ticket)
    expect(connection.failure).toMatchObject({ _tag: "ServerLostError", during: "GRAPH_COMPUTE" })
    expect(connection.failure?.message).toContain("status 255 (failed)")
  })

  test("that has another size breaks the connection", () => {
    const { connection, far } = old()
    request(connection, Command.BUFFER_CLEAR)
    const { ticket } = read(connection, 1)
    tellStatus(far, 0)
    connection.drainTo(ticket)
    expect(connection.failure).toMatchObject({ _tag: "ServerLostError", during: "BUFFER_CLEAR" })
  })

  test("is not expected of a version that is silent", () => {
    const { connection, far } = connect()
    for (const command of [Command.GRAPH_COMPUTE, Command.FREE_BUFFER, Command.INIT_TENSOR]) {
      request(connection, command)
    }
    const { target, ticket } = read(connection, 1)
    answer(far, 4)
    connection.drainTo(ticket)
    expect(target[0]).toBe(4)
  })
})
