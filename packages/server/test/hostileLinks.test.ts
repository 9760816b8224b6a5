/** Links between servers, with a client or a server at the other end that does not keep to what is agreed. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { connect, type Socket } from "node:net"
import { networkInterfaces } from "node:os"
import {
  AllReduceFlag,
  Command,
  encodeLinkKey,
  encodeLinkKeyAnswer,
  encodeRequest,
  HelloExtension,
  LinkStatus,
  noConnCaps,
  PeerFault,
  type RpcTensor,
  readLostPeer,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { AllowList } from "../src/front/AllowList.ts"
import { shownKey } from "../src/front/linkKey.ts"
import { PeerLinks } from "../src/front/PeerLinks.ts"
import { peersOf } from "../src/front/peers.ts"
import type { ServeOptions } from "../src/index.ts"
import { allReduce, allReduceDevices, askLink, linkPair, newKey } from "./linkedServers.ts"
import { listening } from "./listening.ts"
import { f32Tensor, floats, TestClient, toFloats } from "./TestClient.ts"
import { loggedIn, startServer, type TestServer, withServer } from "./withServer.ts"

const hasty = { linkTimeoutMs: 300, linkSilenceMs: 300 }

/** One for all that need no other: each refused client costs it a process. */
let shared: TestServer & { readonly stop: () => Promise<void> }
beforeAll(async () => {
  const limits = { addressLimits: false, logWindowMs: 0, spareCount: 2 }
  shared = await startServer({ ...hasty, ...limits })
})
afterAll(() => shared.stop())

/** Runs a test with it; `logged` looks at what the test made it say. */
const withShared =
  <A extends readonly unknown[]>(use: (server: TestServer, ...args: A) => Promise<void>) =>
  (...args: A): Promise<void> => {
    const logged = loggedIn(shared.log, shared.log.length)
    return use({ ...shared, logged }, ...args)
  }

/** What this test says to a server in the name of another one. */
class Peer {
  readonly #socket: Socket
  #received: Uint8Array = new Uint8Array(0)
  readonly closed: Promise<void>

  constructor(socket: Socket) {
    this.#socket = socket
    this.closed = new Promise((resolve) => {
      socket.on("close", () => resolve())
      socket.on("error", () => {})
    })
    socket.on("data", (data: Uint8Array) => {
      this.#received = Uint8Array.from(Buffer.concat([this.#received, data]))
    })
  }

  static open(port: number): Promise<Peer> {
    return new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1", () => resolve(new Peer(socket)))
    })
  }

  write(...parts: readonly Uint8Array[]): void {
    this.#socket.write(Buffer.concat(parts))
  }

  async read(size: number): Promise<Uint8Array> {
    while (this.#received.length < size) await Bun.sleep(1)
    const taken = this.#received.slice(0, size)
    this.#received = this.#received.slice(size)
    return taken
  }

  pause(): void {
    this.#socket.pause()
  }

  end(): void {
    this.#socket.destroy()
  }
}

const places = { rank: 0, worldSize: 2, peer: 1 }

/** A client of this machine that asks for links. */
const nearby = { host: "127.0.0.1", address: "127.0.0.1" }

/** A server whose only links are this test, `count` of them. */
const linkedToAll = async (server: TestServer, count: number) => {
  const client = await TestClient.connect(server.port)
  const peers: { readonly peer: Peer; readonly key: Uint8Array }[] = []
  for (let place = 1; place <= count; place++) {
    const key = newKey()
    const link = { rank: 0, worldSize: count + 1, peer: place, key }
    expect(await askLink(client, "LINK_EXPECT", link)).toBe(LinkStatus.DONE)
    const peer = await Peer.open(server.port)
    peer.write(encodeLinkKey(shownKey(key)))
    expect(await peer.read(9)).toEqual(encodeLinkKeyAnswer(LinkStatus.DONE))
    expect(await askLink(client, "LINK_AWAIT", { peer: place })).toBe(LinkStatus.DONE)
    peers.push({ peer, key })
  }
  const close = (): void => {
    client.close()
    for (const { peer } of peers) peer.end()
  }
  return { client, peers, close }
}

const linkedToTest = async (server: TestServer) => {
  const { client, peers, close } = await linkedToAll(server, 1)
  return { client, ...peers[0]!, close }
}

/** Magic of a message of bf16. */
const BF16 = 0x46425352

/** What comes before the floats of a message; shim/io/all_reduce.cpp. */
const header = (sequence: number, elements: number, total = elements, magic = 0x4d555352) =>
  new Uint8Array(Uint32Array.of(magic, sequence, elements, total).buffer)

/** What a server says last instead of an answer. */
const lastWord = async (client: TestClient) => {
  const word = await client.read(8)
  return readLostPeer(new DataView(word.buffer, word.byteOffset), 0)
}

const part = async (client: TestClient, values: Uint8Array) => {
  const tensor = f32Tensor(1, await client.allocate(values.length), 0, [values.length / 4])
  client.setTensor(tensor, values)
  return tensor
}

test(
  "a link is used as it should be",
  withShared(async (server) => {
    const { client, peer, close } = await linkedToTest(server)
    const tensor = await part(client, floats(1, 2))
    for (const round of [0, 1]) {
      allReduce(client, tensor)
      peer.write(header(round, 2), floats(10, 20))
    }
    expect(toFloats(await client.getTensor(tensor, 8))).toEqual([21, 42])
    expect(await peer.read(48)).toEqual(
      Uint8Array.from(Buffer.concat([header(0, 2), floats(1, 2), header(1, 2), floats(11, 22)])),
    )
    close()
  }),
)

describe("a server at the other end is named, and ends the session, when it", () => {
  const name = "the other server, 127.0.0.1 (number 1 of 2),"
  const wrong = "sent something else than its part of this sum"
  const silent = "neither sent nor took anything in time"
  const { LEFT, SILENT, WRONG } = PeerFault

  test.each<readonly [string, (peer: Peer) => void, string, number]>([
    [
      "sends more floats than are due",
      (peer) => peer.write(header(0, 3, 3), floats(1, 2, 3)),
      ...([wrong, WRONG] as const),
    ],
    ["sends fewer", (peer) => peer.write(header(0, 1, 1), floats(1)), wrong, WRONG],
    ["has another tensor", (peer) => peer.write(header(0, 2, 9), floats(1, 2)), wrong, WRONG],
    ["is at another sum", (peer) => peer.write(header(1, 2), floats(1, 2)), wrong, WRONG],
    [
      "sends bf16 where floats are due",
      (peer) => peer.write(header(0, 2, 2, BF16), floats(1)),
      ...([wrong, WRONG] as const),
    ],
    ["says what is no part", (peer) => peer.write(header(0, 2, 2, 1), floats(1, 2)), wrong, WRONG],
    ["says nothing", () => {}, silent, SILENT],
    ["stops in the middle", (peer) => peer.write(header(0, 2), floats(1)), silent, SILENT],
    ["ends the link", (peer) => peer.end(), "ended the link", LEFT],
  ])(
    "%s",
    withShared(async (server, _, speak, reason, fault) => {
      const { client, peer, close } = await linkedToTest(server)
      allReduce(client, await part(client, floats(1, 2)))
      speak(peer)
      await client.closed
      await server.logged("ALL_REDUCE", name, reason)
      expect(await lastWord(client)).toEqual({ place: 1, fault })
      close()
    }),
  )

  test(
    "says nothing, while another one sends a little all the time",
    withShared(async (server) => {
      const { client, peers, close } = await linkedToAll(server, 2)
      const count = 10_000
      allReduce(client, await part(client, new Uint8Array(4 * count)))
      const [slow] = peers
      slow!.peer.write(header(0, count))
      const timer = setInterval(() => slow!.peer.write(floats(1)), 20)
      await client.closed
      clearInterval(timer)
      expect(await lastWord(client)).toEqual({ place: 2, fault: SILENT })
      await server.logged("ALL_REDUCE", "(number 2 of 3),", silent)
      close()
    }),
  )

  test(
    "sends floats where bf16 is due",
    withShared(async (server) => {
      const { client, peer, close } = await linkedToTest(server)
      const flags = AllReduceFlag.COUNTS | AllReduceFlag.BF16
      const tensor = await part(client, floats(1, 2))
      allReduce(client, tensor, flags)
      peer.write(header(0, 2, 2, BF16), Uint8Array.of(0x00, 0x40, 0x40, 0x40))
      expect(toFloats(await client.getTensor(tensor, 8))).toEqual([3, 5])
      expect(await peer.read(20)).toEqual(
        Uint8Array.from([...header(0, 2, 2, BF16), 0x80, 0x3f, 0x00, 0x40]),
      )
      allReduce(client, tensor, flags)
      peer.write(header(1, 2), floats(1, 2))
      await client.closed
      await server.logged("ALL_REDUCE", name, wrong)
      close()
    }),
  )

  test(
    "says more behind its part",
    withShared(async (server) => {
      const { client, peer, close } = await linkedToTest(server)
      const tensor = await part(client, floats(1, 2))
      allReduce(client, tensor)
      peer.write(header(0, 2), floats(1, 2, 3, 4, 5, 6))
      expect(toFloats(await client.getTensor(tensor, 8))).toEqual([2, 4])
      allReduce(client, tensor)
      await client.closed
      await server.logged("ALL_REDUCE", name, wrong)
      close()
    }),
  )

  /** A client, and its parts of so many zeros, of which the server that is tested has two. */
  const devicesOf = async (server: TestServer, places: readonly number[], count: number) => {
    const { client, peers, close } = await linkedToAll(server, new Set(places).size - 1)
    const tensors = [
      await part(client, new Uint8Array(4 * count)),
      await part(client, new Uint8Array(4 * count)),
    ]
    const add = (): void => allReduceDevices(client, places, tensors)
    return { client, peers, close, tensors, add }
  }

  test.each<readonly [string, Uint8Array]>([
    ["has a part less than was agreed", Buffer.concat([header(0, 2, 2), floats(1, 2)])],
    ["has one more", Buffer.concat([header(0, 6, 2), floats(1, 2, 3, 4, 5, 6)])],
    ["adds up longer parts", Buffer.concat([header(0, 4, 4), floats(1, 2, 3, 4)])],
  ])(
    "%s",
    withShared(async (server, _, message) => {
      const { client, peers, close, tensors, add } = await devicesOf(server, [0, 0, 1, 1], 2)
      add()
      peers[0]!.peer.write(header(0, 4, 2), floats(1, 2, 10, 20))
      for (const tensor of tensors) {
        expect(toFloats(await client.getTensor(tensor, 8))).toEqual([11, 22])
      }
      add()
      new DataView(message.buffer, message.byteOffset).setUint32(4, 1, true)
      peers[0]!.peer.write(message)
      await client.closed
      await server.logged("ALL_REDUCE_DEVICES", name, wrong)
      expect(await lastWord(client)).toEqual({ place: 1, fault: WRONG })
      close()
    }),
  )

  const total = 32_772
  const share = total / 3
  test.each<readonly [string, (peer: Peer) => void, string, number]>([
    ["ends the link", (peer) => peer.end(), "ended the link", LEFT],
    ["says nothing", () => {}, silent, SILENT],
    ["sends another share", (peer) => peer.write(header(1, share - 1, total)), wrong, WRONG],
  ])(
    "%s when each has added up its share",
    withShared(async (server, _, speak, reason, fault) => {
      const { client, peers, close, add } = await devicesOf(server, [0, 0, 1, 2], total)
      add()
      for (const { peer } of peers) {
        peer.write(header(0, share, total), new Uint8Array(4 * share))
      }
      for (const { peer } of peers) {
        await peer.read(16 + 2 * 4 * share)
        expect(await peer.read(16)).toEqual(header(1, share, total))
        await peer.read(4 * share)
      }
      peers[0]!.peer.write(header(1, share, total), new Uint8Array(4 * share))
      speak(peers[1]!.peer)
      await client.closed
      await server.logged("ALL_REDUCE_DEVICES", "(number 2 of 3),", reason)
      expect(await lastWord(client)).toEqual({ place: 2, fault })
      close()
    }),
  )

  test(
    "takes nothing of a part",
    withShared(async (server) => {
      const { client, peer, close } = await linkedToTest(server)
      peer.pause()
      // More than the sockets between the two hold, of which everything is there that the server waits for.
      const [total, pieceCount] = [1024 * 1024, 16]
      const count = (total / 4) * pieceCount
      const tensor = f32Tensor(1, await client.allocate(4 * count), 0, [count])
      for (let piece = 0; piece < pieceCount; piece++) {
        peer.write(header(piece, total / 4, total), new Uint8Array(total))
      }
      allReduce(client, tensor)
      await client.closed
      await server.logged("ALL_REDUCE", name, silent)
      close()
    }),
  )
})

describe("keys", () => {
  const isRefused = async (port: number, key: Uint8Array): Promise<void> => {
    const peer = await Peer.open(port)
    peer.write(encodeLinkKey(shownKey(key)))
    await peer.closed
  }

  test(
    "one that nobody expects, and one that was used, are refused",
    withShared(async (server) => {
      await isRefused(server.port, newKey())
      await server.logged("disconnected: shows the key of a link that nobody here expects")
      const { client, key, close } = await linkedToTest(server)
      await isRefused(server.port, key)
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      close()
    }),
  )

  test(
    "they are forgotten with the client, and with its links",
    withShared(async (server) => {
      for (const leave of [
        (client: TestClient) => client.close(),
        (client: TestClient) => client.reset(),
      ]) {
        const client = await TestClient.connect(server.port)
        const key = newKey()
        await askLink(client, "LINK_EXPECT", { ...places, key })
        leave(client)
        for (let tries = 0; server.clientCount() > 0 && tries < 500; tries++) await Bun.sleep(10)
        await isRefused(server.port, key)
      }
    }),
  )

  test(
    "they are good for a while",
    withShared(async (server) => {
      const client = await TestClient.connect(server.port)
      const key = newKey()
      await askLink(client, "LINK_EXPECT", { ...places, key })
      expect(await askLink(client, "LINK_AWAIT", { peer: 1 })).toBe(LinkStatus.LATE)
      await server.logged("wants a link to another server: the other server did not come in time")
      await isRefused(server.port, key)
      expect(await askLink(client, "LINK_AWAIT", { peer: 1 })).toBe(LinkStatus.LATE)
      client.close()
    }),
  )

  test("what is no whole key, or more than one, is refused", () =>
    withServer({ helloTimeoutMs: 300 }, async (server) => {
      const client = await TestClient.connect(server.port)
      const key = newKey()
      await askLink(client, "LINK_EXPECT", { ...places, key })
      const whole = encodeLinkKey(shownKey(key))
      for (const bytes of [
        whole.subarray(0, 10),
        Buffer.concat([whole, floats(1)]),
        whole.with(1, 17),
      ]) {
        const peer = await Peer.open(server.port)
        peer.write(bytes)
        await peer.closed
      }
      const slow = await Peer.open(server.port)
      for (const byte of whole) slow.write(Uint8Array.of(byte))
      expect(await slow.read(9)).toEqual(encodeLinkKeyAnswer(LinkStatus.DONE))
      slow.end()
      client.close()
    }))

  test("a session has 64 of them at a time, and each key is one's alone", () => {
    const heard: (readonly [number, number])[] = []
    const sessionOf = () => ({
      note: (id: number, status: number) => void heard.push([id, status]),
    })
    const links = new PeerLinks({
      ...{ mayDial: () => true, timeoutMs: 60_000, onFailure: () => {} },
    })
    const [session, other] = [sessionOf(), sessionOf()]
    const expectOne = (of: typeof session, id: number, key = newKey().toHex()) => {
      links.hear(of, { event: "expect", id, key }, nearby)
      return heard.at(-1)
    }
    for (let id = 1; id <= 64; id++) expect(expectOne(session, id)).toEqual([id, LinkStatus.DONE])
    expect(expectOne(session, 65)).toEqual([65, LinkStatus.TOO_MANY])
    const key = newKey().toHex()
    expect(expectOne(other, 1, key)).toEqual([1, LinkStatus.DONE])
    links.hear(session, { event: "forget", id: 64 }, nearby)
    expect(expectOne(session, 64)).toEqual([64, LinkStatus.DONE])
    links.forget(session)
    expect(expectOne(session, 66, key)).toEqual([66, LinkStatus.TOO_MANY])
    expect(expectOne(session, 67)).toEqual([67, LinkStatus.DONE])
    expect(links.expectedCount).toBe(2)
    links.close()
    expect(links.expectedCount).toBe(0)
  })
})

describe("a link is not made, and the client told why,", () => {
  const dial = async (server: TestServer, port: number, host = "127.0.0.1"): Promise<number> => {
    const client = await TestClient.connect(server.port)
    const status = await askLink(client, "LINK_DIAL", { ...places, key: newKey(), port, host })
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    client.close()
    return status
  }

  test.each<readonly [string, ServeOptions, string, number]>([
    ["where there are none", { peers: [] }, "127.0.0.1", LinkStatus.OFF],
    ["to one of a public network", { host: "0.0.0.0" }, "8.8.8.8", LinkStatus.NOT_ALLOWED],
    ["to this machine, if it is not in the list", { peers: ["10.0.0.0/8"] }, "127.0.0.1", 3],
  ])("%s", (_, options, host, status) =>
    withServer({ ...hasty, ...options }, async (server) => {
      expect(await dial(server, 50052, host)).toBe(status)
      if (status !== LinkStatus.OFF) await server.logged("wants a link to another server")
    }),
  )

  test.each([
    ["to an address that is not allowed", "10.0.0.1", LinkStatus.NOT_ALLOWED],
    ["to a name that nobody has", "no.such.host.invalid", LinkStatus.UNREACHABLE],
    ["to a number that is no whole address", "127.1:1", LinkStatus.UNREACHABLE],
    ["to no name", "", LinkStatus.UNREACHABLE],
  ])(
    "%s",
    withShared(async (server, _, host, status) => {
      expect(await dial(server, 50052, host)).toBe(status)
      await server.logged("wants a link to another server")
    }),
  )

  test(
    "to a server that does not listen, hangs up, says something else or nothing",
    withShared(async (server) => {
      const answers: readonly ((peer: Socket) => void)[] = [
        (peer) => peer.destroy(),
        (peer) => void peer.write(encodeLinkKeyAnswer(LinkStatus.OFF)),
        (peer) => void peer.write(Buffer.concat([encodeLinkKeyAnswer(LinkStatus.DONE), floats(1)])),
        () => {},
      ]
      const free = await listening(() => {})
      free.stop()
      expect(await dial(server, free.port)).toBe(LinkStatus.UNREACHABLE)
      for (const answer of answers) {
        const gone = Promise.withResolvers<void>()
        const other = await listening((peer) => {
          peer.resume().on("close", () => gone.resolve())
          answer(peer)
        })
        expect(await dial(server, other.port)).toBe(LinkStatus.UNREACHABLE)
        await gone.promise
        other.stop()
      }
    }),
  )

  test("with a server that asks for a token, which this one does not have", () =>
    withServer({ token: "secret" }, async (other) => {
      expect(await dial(shared, other.port)).toBe(LinkStatus.UNREACHABLE)
      await shared.logged("closed the connection", "--token-file")
      await other.logged("showed no token")
    }))

  test("to a name of what is not allowed, which is no other answer than to a name that nobody has", () =>
    withServer({ ...hasty, peers: ["10.0.0.0/8"] }, async (server) => {
      expect(await dial(server, 50052, "localhost")).toBe(LinkStatus.UNREACHABLE)
      await server.logged("localhost", "127.0.0.1", "--peers")
    }))

  test(
    "twice to one server",
    withShared(async (server) => {
      const { client, close } = await linkedToTest(server)
      expect(await askLink(client, "LINK_EXPECT", { ...places, key: newKey() })).toBe(
        LinkStatus.TOO_MANY,
      )
      close()
    }),
  )
})

describe("what a server does for who asks it to connect", () => {
  const ipv6Loopback = ["::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
  const anyone = Either.getOrThrow(AllowList.of(["0.0.0.0/0", "::/0"]))

  test("its own loopback is for clients of this machine", async () => {
    const mayDial = await Effect.runPromise(peersOf(undefined, "0.0.0.0", anyone))
    const own = Object.values(networkInterfaces()).flatMap((all) => all?.[0]?.address ?? [])
    for (const address of ["127.0.0.1", "127.8.9.1", ...ipv6Loopback]) {
      for (const client of ["127.0.0.1", "::1", ...own]) {
        expect([address, client, mayDial(address, client)]).toEqual([address, client, true])
      }
      for (const client of ["192.0.2.1", "2001:db8::1"]) {
        expect([address, client, mayDial(address, client)]).toEqual([address, client, false])
      }
    }
    expect(mayDial("192.168.1.1", "192.0.2.1")).toBe(true)
    expect(mayDial("8.8.8.8", "127.0.0.1")).toBe(false)
  })

  test("it connects to what --peers says for all", async () => {
    const mayDial = await Effect.runPromise(peersOf(["127.0.0.1"], "0.0.0.0", anyone))
    expect(mayDial("127.0.0.1", "192.0.2.1")).toBe(true)
    expect(mayDial("192.168.1.1", "192.0.2.1")).toBe(false)
  })

  test(
    "it says nothing of the client's choice there",
    withShared(async (server) => {
      const said = Promise.withResolvers<Uint8Array>()
      const other = await listening((peer) => peer.once("data", said.resolve))
      const client = await TestClient.connect(server.port)
      const key = newKey()
      const { port } = other
      await askLink(client, "LINK_DIAL", { ...places, key, host: "127.0.0.1", port })
      const bytes = Buffer.from(await said.promise)
      expect(bytes).toHaveLength(25)
      expect(bytes.indexOf(key)).toBe(-1)
      client.close()
      other.stop()
    }),
  )

  const linksOf = () =>
    new PeerLinks({ ...{ mayDial: () => true, timeoutMs: 60_000, onFailure: () => {} } })

  test("it takes no session's word for a port", () => {
    const links = linksOf()
    for (const port of [-1, 0, 80, 1023, 65536, 1e9, 50052.5]) {
      const request = {
        event: "dial",
        id: 1,
        key: newKey().toHex(),
        host: "127.0.0.1",
        port,
      } as const
      const session = { note: () => {} }
      expect(() => links.hear(session, request, nearby)).toThrow("a link to")
    }
    links.close()
  })

  test("16 connections are under way for an address, and others' are not in their way", async () => {
    const silent = await listening(() => {})
    const links = linksOf()
    const dial = (address: string) => {
      const heard: number[] = []
      const session = { note: (_: number, status: number) => void heard.push(status) }
      const where = { host: "127.0.0.1", port: silent.port }
      const request = { event: "dial", id: 1, key: newKey().toHex(), ...where } as const
      links.hear(session, request, { host: address, address })
      return heard
    }
    for (let count = 0; count < 16; count++) expect(dial("10.0.0.1")).toEqual([])
    expect(dial("10.0.0.1")).toEqual([LinkStatus.TOO_MANY])
    expect(dial("10.0.0.2")).toEqual([])
    links.close()
    silent.stop()
  })
})

describe("a client is refused that", () => {
  const key = newKey()
  const host = "127.0.0.1"
  const target = { key, host, port: 50052 }

  test.each<readonly [string, (client: TestClient) => Promise<unknown>, string]>([
    [
      "has a place beyond the group",
      (client) => askLink(client, "LINK_EXPECT", { ...places, rank: 2, key }),
      "LINK_EXPECT: rank must be below the world size 2",
    ],
    [
      "links a server with itself",
      (client) => askLink(client, "LINK_EXPECT", { ...places, peer: 0, key }),
      "LINK_EXPECT: peer must be another place",
    ],
    [
      "links a server with one beyond the group",
      (client) => askLink(client, "LINK_DIAL", { ...places, peer: 2, ...target }),
      "LINK_DIAL: peer must be another place",
    ],
    [
      "has a group of one",
      (client) => askLink(client, "LINK_EXPECT", { rank: 0, worldSize: 1, peer: 1, key }),
      "LINK_EXPECT: world_size must be from 2 to 16",
    ],
    [
      "has a group of too many",
      (client) => askLink(client, "LINK_EXPECT", { rank: 0, worldSize: 17, peer: 1, key }),
      "LINK_EXPECT: world_size must be from 2 to 16",
    ],
    [
      "has a service of the system dialled",
      (client) => askLink(client, "LINK_DIAL", { ...places, ...target, port: 80 }),
      "LINK_DIAL: port must be from 1024",
    ],
    [
      "changes its place",
      async (client) => {
        await askLink(client, "LINK_EXPECT", { rank: 0, worldSize: 3, peer: 1, key })
        await askLink(client, "LINK_EXPECT", { rank: 1, worldSize: 3, peer: 2, key })
      },
      "LINK_EXPECT: rank is 0 in this group",
    ],
    [
      "waits for a server that it did not name",
      (client) => askLink(client, "LINK_AWAIT", { peer: 1 }),
      "LINK_AWAIT: peer is no server that this one expects",
    ],
    [
      "adds up without links",
      async (client) => allReduce(client, await part(client, floats(1))),
      "ALL_REDUCE: group is not linked",
    ],
    [
      "adds up before all links are there",
      async (client) => {
        await askLink(client, "LINK_EXPECT", { rank: 0, worldSize: 3, peer: 2, key })
        allReduce(client, await part(client, floats(1)))
      },
      "ALL_REDUCE: group lacks the link to server number (got 1)",
    ],
  ])(
    "%s",
    withShared(async (server, _, ask, text) => {
      const client = await TestClient.connect(server.port)
      await ask(client).catch(() => {})
      await client.closed
      await server.logged(text)
    }),
  )

  test.each([
    ["adds up halves", { type: 1, nb: [2, 8, 8, 8] }, 1, "tensor.type must be F32"],
    ["adds up what has gaps", { nb: [8, 32, 32, 32] }, 1, "tensor.nb must leave no gaps"],
    [
      "adds up beyond its buffer",
      { ne: [64, 1, 1, 1], nb: [4, 256, 256, 256] },
      1,
      "tensor.nb reaches",
    ],
    ["adds up what is in no buffer", { buffer: 77n }, 1, "tensor.buffer is no buffer"],
    ["says more than there is to say", {}, 4, "flags must be of those that there are"],
  ])(
    "%s",
    withShared(async (server, _, fields, counts, text) => {
      const { client, close } = await linkedToTest(server)
      allReduce(client, f32Tensor(1, await client.allocate(64), 0, [4], fields), counts)
      await client.closed
      await server.logged("ALL_REDUCE", text)
      close()
    }),
  )
})

type Sum = {
  readonly places?: readonly number[]
  readonly tensors?: number
  readonly changed?: Partial<RpcTensor>
} & Parameters<typeof allReduceDevices>[3]

test.each<readonly [string, Sum, string]>([
  ["names servers without links", { places: [0, 1] }, "group is not linked"],
  ["names no server", { serverCount: 0 }, "server_count must be from 1"],
  ["names too many", { serverCount: 17 }, "server_count must be from 1"],
  ["names one beyond them", { places: [0, 1], serverCount: 1 }, "places must be below 1"],
  ["is of one part", { places: [0], tensors: 1 }, "part_count must be from 2"],
  ["says more than there is to say", { flags: AllReduceFlag.COUNTS }, "flags must be of those"],
  ["has a tensor too few", { tensors: 1 }, "payload_size must have 2 tensors"],
  ["has one too many", { tensors: 3 }, "payload_size must have 2 tensors"],
  [
    "adds up different lengths",
    { changed: { ne: [8, 1, 1, 1], nb: [4, 32, 32, 32] } },
    "tensor.ne must have 4 elements",
  ],
  ["adds up halves", { changed: { type: 1, nb: [2, 8, 8, 8] } }, "tensor.type must be F32"],
  ["adds up what is in no buffer", { changed: { buffer: 77n } }, "tensor.buffer is no buffer"],
])(
  "a sum of devices that %s",
  withShared(async (server, _, { places = [0, 0], tensors = 2, changed = {}, ...head }, text) => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(64)
    const parts = Array.from({ length: tensors }, (_, index) =>
      f32Tensor(1, buffer, 0, [4], index === tensors - 1 ? changed : {}),
    )
    allReduceDevices(client, places, parts, head)
    await client.closed
    await server.logged("ALL_REDUCE_DEVICES", text)
  }),
)

test("a client that leaves while its server waits for another one takes the session along", () =>
  withServer({ linkTimeoutMs: 60_000, linkSilenceMs: 60_000 }, async (server) => {
    const leaves = async (client: TestClient): Promise<void> => {
      await client.flushed()
      await Bun.sleep(100)
      client.close()
      for (let tries = 0; server.clientCount() > 0 && tries < 500; tries++) await Bun.sleep(10)
      expect(server.clientCount()).toBe(0)
    }
    const waiting = await TestClient.connect(server.port)
    await askLink(waiting, "LINK_EXPECT", { ...places, key: newKey() })
    void askLink(waiting, "LINK_AWAIT", { peer: 1 }).catch(() => {})
    await leaves(waiting)
    const { client, peer } = await linkedToTest(server)
    allReduce(client, await part(client, floats(1, 2)))
    await leaves(client)
    await peer.closed
  }))

test("a client that sends no more while its server waits for another one is told for whom", () =>
  withServer({ linkTimeoutMs: 60_000, linkSilenceMs: 60_000 }, async (server) => {
    const { client, close } = await linkedToTest(server)
    const tensor = await part(client, floats(1, 2))
    allReduce(client, tensor)
    client.write(encodeRequest(Command.GET_TENSOR, { tensor, offsetBytes: 0n, sizeBytes: 8n }))
    await client.flushed()
    await Bun.sleep(100)
    client.shutdown()
    expect(await lastWord(client)).toEqual({ place: 1, fault: PeerFault.AWAITED })
    await server.logged("a part of a sum did not come from the other server, 127.0.0.1 (number 1")
    close()
  }))

test(
  "a session that was linked serves no other client",
  withShared(async (server) => {
    const pids = server.processIds()
    const { close } = await linkedToTest(server)
    close()
    for (let tries = 0; server.clientCount() > 0 && tries < 500; tries++) await Bun.sleep(10)
    const next = await TestClient.connect(server.port)
    expect(server.processIds()).not.toEqual(pids)
    next.close()
  }),
)

test("servers that encrypt make no plain links", async () => {
  const { ownIdentity } = await import("../src/index.ts")
  const { mkdtempSync, rmSync } = await import("node:fs")
  const { tmpdir } = await import("node:os")
  const { join } = await import("node:path")
  const { connect: connectTls } = await import("node:tls")
  const Effect = await import("effect/Effect")
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-test-tls-"))
  const tls = await Effect.runPromise(ownIdentity(folder))
  await withServer({ tls }, async (server) => {
    const { encodeExtensionRequest, encodeRequest } = await import("@ggml-rpc/protocol")
    const key = newKey()
    const received: Buffer[] = []
    const socket = connectTls({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false })
    socket.on("data", (data: Buffer) => received.push(data))
    socket.write(encodeRequest(Command.HELLO, { connCaps: noConnCaps() }))
    socket.write(encodeExtensionRequest("LINK_EXPECT", { ...places, key }))
    while (Buffer.concat(received).length < 36 + 9) await Bun.sleep(1)
    const all = Buffer.concat(received)
    expect(all[8 + 3]! & HelloExtension.LEVEL_MASK).toBe(HelloExtension.LEVEL)
    expect(all.at(-1)).toBe(LinkStatus.TLS)
    socket.destroy()
  })
  rmSync(folder, { recursive: true })
})

test("a server whose session dies is told of, by the one that waits for its part", () =>
  withServer({}, (first) =>
    withServer({}, async (second) => {
      const clients = [await TestClient.connect(first.port), await TestClient.connect(second.port)]
      expect(await linkPair(clients, [first, second], 0, 1)).toEqual([0, 0, 0])
      allReduce(clients[0]!, await part(clients[0]!, floats(1)))
      clients[1]!.reset()
      await clients[0]!.closed
      await first.logged("ALL_REDUCE", "the other server, 127.0.0.1", "ended the link")
      for (const client of clients) client.close()
    }),
  ))
