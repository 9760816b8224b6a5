/** A connection over a pair of local sockets; the test is the server. */
import { ptr } from "bun:ffi"
import { afterEach, describe, expect, test } from "bun:test"
import { type Address, io, socketPair } from "@ggml-rpc/native/bindings"
import { Command, Dialect, encodeResponse, findVersion, versions } from "@ggml-rpc/protocol"
import { RpcConnection } from "./RpcConnection.ts"

const cleanups: Array<() => void> = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

const connect = () => {
  const [near, far] = socketPair()
  const connection = new RpcConnection({ host: "test", port: 1 })
  // As if it were past HELLO.
  Object.assign(connection, { fd: near })
  // A wait for what never comes ends as a failure.
  connection.beginWork(300)
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

/** More than a server may have to write without anybody reading it. */
const LARGE_BYTES = 9000

const answerLarge = (far: number, first: number): void =>
  answer(far, first, ...new Uint8Array(LARGE_BYTES - 1))

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

  test("is taken off the wire before much more is sent, the oldest first and no more than needed", () => {
    const { connection, far } = connect()
    const reads = [read(connection, LARGE_BYTES), read(connection, LARGE_BYTES)]
    write(connection, 30 * 1024)
    const third = read(connection, LARGE_BYTES)
    answerLarge(far, 1)
    answerLarge(far, 2)
    // 40 KiB behind the first two, 10 behind the third.
    write(connection, 10 * 1024)
    expect(reads.map(({ target }) => target[0])).toEqual([0, 0])
    write(connection, 20 * 1024)
    expect(reads.map(({ target }) => target[0])).toEqual([1, 2])
    expect(connection.failure).toBeUndefined()
    answerLarge(far, 3)
    connection.drainTo(third.ticket)
    expect(third.target[0]).toBe(3)
  })

  test("that no socket is too small for is left on the wire, however much is sent", () => {
    const { connection, far } = connect()
    const small = read(connection, 1)
    write(connection, 40 * 1024)
    write(connection, 40 * 1024)
    expect(connection.failure).toBeUndefined()
    answer(far, 1)
    connection.drainTo(small.ticket)
    expect(small.target[0]).toBe(1)
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
    const second = read(connection, LARGE_BYTES)
    acknowledge()
    answer(far, 1)
    connection.drainTo(first.ticket)
    expect(connection.failure).toBeUndefined()
    expect([first.target[0], second.target[0]]).toEqual([1, 0])
    acknowledge()
    answerLarge(far, 2)
    // 40 KiB behind the second read, whose answer an acknowledgement precedes.
    write(connection, 40 * 1024)
    expect(second.target[0]).toBe(0)
    write(connection, 20 * 1024)
    expect(second.target[0]).toBe(2)
    expect(connection.failure).toBeUndefined()
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
