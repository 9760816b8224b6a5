/** Servers that add up together, of which one fails the others; the test is all of them. */
import { ptr } from "bun:ffi"
import { afterEach, describe, expect, test } from "bun:test"
import { type Address, io, socketPair } from "@ggml-rpc/native/bindings"
import { Command, encodeResponse, PeerFault, writeLostPeer } from "@ggml-rpc/protocol"
import { stallOf } from "./lostPeer.ts"
import { RpcConnection } from "./RpcConnection.ts"

const cleanups: Array<() => void> = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

const SILENCE_MS = 200

/** Three of them, each of which owes an answer of one byte; their places are their ports. */
const threeLinked = () => {
  const all = [0, 1, 2].map((port) => {
    const [near, far] = socketPair()
    const connection = new RpcConnection({ host: "h", port })
    // As if it were past HELLO.
    Object.assign(connection, { fd: near })
    connection.beginWork(SILENCE_MS)
    cleanups.push(() => connection.close())
    cleanups.push(() => io().io_close(far))
    const target = new Uint8Array(1)
    connection.block.fill(Command.GET_TENSOR, connection.reserve(10))
    const ticket = connection.expect(ptr(target) as Address, 1)
    const says = (fault: number, place: number): void => {
      const word = new Uint8Array(8)
      writeLostPeer(new DataView(word.buffer), 0, { place, fault })
      io().io_send(far, word, word.length)
    }
    const answers = (): void => {
      const response = encodeResponse(Command.GET_TENSOR, { data: Uint8Array.of(7) })
      io().io_send(far, response, response.length)
    }
    const ends = (): number => io().io_shutdown(far)
    const isToldTheEnd = (): boolean => io().io_recv(far, new Uint8Array(1), 1) === 0
    const wait = (): void => connection.drainTo(ticket)
    return { connection, target, says, answers, ends, isToldTheEnd, wait }
  }) as unknown as readonly [Linked, Linked, Linked]
  const connections = all.map(({ connection }) => connection)
  for (const connection of connections) {
    connection.peers = connections
    connection.linked = connections
  }
  return { all, failures: () => connections.map(({ failure }) => failure) }
}

interface Linked {
  readonly connection: RpcConnection
  readonly target: Uint8Array
  readonly says: (fault: number, place: number) => void
  readonly answers: () => void
  readonly ends: () => number
  readonly isToldTheEnd: () => boolean
  readonly wait: () => void
}

const { AWAITED, BROKEN, LEFT, SILENT, WRONG } = PeerFault

describe("a server that ends with the name of another one", () => {
  test.each([
    [LEFT, "it ended its link to h:0"],
    [SILENT, "its part of a sum did not come to h:0 in time"],
    [WRONG, "it sent h:0 something else than its part of a sum"],
    [BROKEN, "its part of a sum did not come to h:0, whose log says why"],
  ])("ends all that are linked, by one error that names that one: %d", (fault, detail) => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    a.says(fault, 1)
    b.ends()
    a.wait()
    const [failure] = failures()
    expect(failure).toMatchObject({ _tag: "ServerLostError", endpoint: "h:1", detail })
    expect(failures().every((one) => one === failure)).toBe(true)
  })

  test("is asked no more where that one ended because of a third", () => {
    const { all, failures } = threeLinked()
    const [a, b, c] = all
    a.says(LEFT, 1)
    // Its last word comes behind an answer, as it may.
    b.answers()
    b.says(LEFT, 2)
    c.ends()
    a.wait()
    const detail = "it ended its link to h:1"
    expect(failures()[0]).toMatchObject({ _tag: "ServerLostError", endpoint: "h:2", detail })
    expect(b.target[0]).toBe(7)
  })

  test("is the one itself that sent something else, though the other's end was seen first", () => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    a.says(LEFT, 1)
    b.says(WRONG, 0)
    a.wait()
    expect(failures()[0]).toMatchObject({ _tag: "ServerLostError", endpoint: "h:0" })
  })

  test("is believed where that one answers what it was not asked, and what follows is not read", () => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    a.says(LEFT, 1)
    // The second one in place of a last word.
    for (let count = 0; count < 2; count++) b.answers()
    b.says(LEFT, 2)
    a.wait()
    const detail = "it ended its link to h:0"
    expect(failures()[0]).toMatchObject({ _tag: "ServerLostError", endpoint: "h:1", detail })
  })

  test("is heard though nothing can be sent to it any more", () => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    a.says(LEFT, 1)
    b.ends()
    io().io_shutdown(a.connection.fd)
    a.connection.flush()
    const [failure] = failures()
    const detail = "it ended its link to h:0"
    expect(failure).toMatchObject({ _tag: "ServerLostError", endpoint: "h:1", detail })
    expect(failures().every((one) => one === failure)).toBe(true)
  })

  test.each([
    ["an answer to it", 0],
    ["its answer to a third", 2],
  ])("is the reason, not what fails after that on the way of %s", (_, place) => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    const other = all[place]!
    const position = other.connection.beginRelay(b.connection, 1)
    b.connection.block.fill(Command.GET_TENSOR, b.connection.reserve(10))
    b.connection.expectRelay(other.connection, position, 1)
    for (const { connection } of all) connection.flush()
    io().io_shutdown(other.connection.fd)
    a.says(LEFT, 1)
    for (let count = 0; count < 2; count++) b.answers()
    b.ends()
    a.wait()
    const [failure] = failures()
    expect(failure).toMatchObject({ endpoint: "h:1", detail: "it ended its link to h:0" })
    expect(failures().every((one) => one === failure)).toBe(true)
  })

  test("and is named by that one: their link broke", () => {
    const { all, failures } = threeLinked()
    const [a, b] = all
    a.says(LEFT, 1)
    b.says(BROKEN, 0)
    a.wait()
    const detail = "its link to h:0 broke"
    expect(failures()[0]).toMatchObject({ _tag: "ServerLostError", endpoint: "h:1", detail })
  })
})

describe("what names no other server of the group is no last word", () => {
  const none = {
    ...{ _tag: "ServerLostError", endpoint: "h:0", during: "GET_TENSOR" },
    detail: "its answer has another size than the protocol says",
  }

  test.each([
    ["a place beyond the group", BROKEN, 15],
    ["its own place", BROKEN, 0],
    ["a fault that there is not", 6, 1],
    ["no fault", 0, 1],
  ])("%s", (_, fault, place) => {
    const { all, failures } = threeLinked()
    all[0].says(fault, place)
    all[0].wait()
    expect(failures()).toEqual([expect.objectContaining(none), undefined, undefined])
  })

  test("any place, of a server that is linked with none", () => {
    const { all, failures } = threeLinked()
    for (const { connection } of all) connection.linked = []
    all[0].says(LEFT, 1)
    all[0].wait()
    expect(failures()).toEqual([expect.objectContaining(none), undefined, undefined])
  })

  test("where another one has named it: that one is believed", () => {
    const { all, failures } = threeLinked()
    all[0].says(LEFT, 1)
    all[1].says(LEFT, 15)
    all[0].wait()
    expect(failures()[0]).toMatchObject({ endpoint: "h:1", detail: "it ended its link to h:0" })
  })
})

describe("of servers that were silent for too long", () => {
  test("the one that others wait for is named, and all were told the end", () => {
    const { all } = threeLinked()
    const [a, b, c] = all
    a.says(AWAITED, 1)
    c.says(AWAITED, 1)
    const linked = all.map(({ connection }) => connection)
    expect(stallOf(linked, 3000)).toMatchObject({
      ...{ _tag: "ServerTimeoutError", endpoint: "h:1", awaitedBy: "h:0", silenceMs: 3000 },
    })
    expect([a, b, c].map(({ isToldTheEnd }) => isToldTheEnd())).toEqual([true, true, true])
  })

  test("it is the last one of those that wait for each other", () => {
    const { all } = threeLinked()
    all[0].says(AWAITED, 1)
    all[1].says(AWAITED, 2)
    const linked = all.map(({ connection }) => connection)
    expect(stallOf(linked, 3000)).toMatchObject({ endpoint: "h:2", awaitedBy: "h:1" })
  })

  test("both are named where each waits for the other", () => {
    const { all } = threeLinked()
    all[0].says(AWAITED, 1)
    all[1].says(AWAITED, 0)
    const failure = stallOf(
      all.map(({ connection }) => connection),
      3000,
    )
    expect(failure).toMatchObject({ _tag: "ServerTimeoutError", endpoint: "h:1", awaits: "h:0" })
    expect(failure!.message).toStartWith("The servers h:1 and h:0 were silent for 3 s")
  })

  test("all are named where what was sent to the one that others wait for has not arrived", () => {
    const { all } = threeLinked()
    const [a, b] = all
    b.connection.flush()
    a.says(AWAITED, 1)
    const linked = all.map(({ connection }) => connection)
    const failure = stallOf(linked, 3000)
    expect(failure).toMatchObject({ endpoint: "h:1", others: ["h:0", "h:2"] })
    expect(failure).not.toHaveProperty("awaitedBy")
  })

  test("all are named where none waits for another", () => {
    const { all, failures } = threeLinked()
    for (const { connection } of all) connection.flush()
    all[0].wait()
    const others = ["h:1", "h:2"]
    expect(failures()[0]).toMatchObject({ _tag: "ServerTimeoutError", endpoint: "h:0", others })
  })
})
