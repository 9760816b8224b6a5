/** Servers of ours that are linked add up parts of tensors, with the bits of ggml's own all-reduce. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import {
  AllReduceFlag,
  encodeLinkKey,
  encodeLinkKeyAnswer,
  LinkStatus,
  type RpcTensor,
} from "@ggml-rpc/protocol"
import { type Greeting, HelloGreeting } from "../src/front/Greeting.ts"
import { LinkGreeting } from "../src/front/LinkGreeting.ts"
import { shownKey } from "../src/front/linkKey.ts"
import { PeerLinks } from "../src/front/PeerLinks.ts"
import { TokenGreeting } from "../src/front/TokenGreeting.ts"
import {
  allReduce,
  allReduceDevices,
  askLink,
  linkedClients,
  linkFree,
  linkPair,
  newKey,
} from "./linkedServers.ts"
import { Random } from "./Random.ts"
import { f32Tensor, floats, TestClient, toFloats } from "./TestClient.ts"
import { startServer, type TestServer, withServer } from "./withServer.ts"

/** Both ways to a tensor's memory, in one group; and as full as a server can be with its client. */
const options = [
  { maxClients: 1 },
  { maxClients: 1, directMemory: false },
  { maxClients: 1, spinUs: 0 },
  { maxClients: 1 },
  { maxClients: 1 },
]

let servers: readonly (TestServer & { stop: () => Promise<void> })[] = []
beforeAll(async () => {
  servers = await Promise.all(options.map((each) => startServer(each)))
})
afterAll(async () => {
  await Promise.all(servers.map(({ stop }) => stop()))
})

const put = async (client: TestClient, data: Uint8Array, ne: readonly number[]) => {
  const tensor = f32Tensor(1, await client.allocate(data.length), 0, ne)
  client.setTensor(tensor, data)
  return tensor
}

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer)

const areSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

/** Signs, magnitudes from 2^-20 to 2^20, and among them zeros and what is smaller than normal. */
const randomFloats = (random: Random, count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, index) => {
    if (index % 97 === 0) return random.pick([0, -0, 1e-42, -1e-42, 3e38])
    return (random.below(2 ** 24) / 2 ** 23 - 1) * 2 ** (random.below(41) - 20)
  })

/** What ggml's fallback leaves on every device, written as it is there: copies and ADDs, step by step (ggml-backend-meta.cpp). */
const ggmlSum = (parts: readonly Float32Array[]): Float32Array => {
  const now = parts.map((part) => part.slice())
  const add = (into: number, from: Float32Array): void => {
    const target = now[into]!
    for (let i = 0; i < target.length; i++) target[i]! += from[i]!
  }
  let offset = Math.floor(now.length / 2)
  while ((offset & (offset - 1)) !== 0) offset--
  const whole = 2 * offset
  for (let j = whole; j < now.length; j++) add(j - whole, now[j]!)
  for (; offset >= 1; offset /= 2) {
    const before = now.map((part) => part.slice())
    for (let j = 0; j < whole; j++) add(j ^ offset, before[j]!)
  }
  for (let j = 1; j < whole; j++) expect(areSame(bytesOf(now[j]!), bytesOf(now[0]!))).toBe(true)
  return now[0]!
}

// Alone in a message, at the borders of what all send to all, of pieces, and of what is read from a device at once; and with a share that is no whole number.
const sizes: Readonly<Record<number, readonly number[]>> = {
  2: [1, 32769, 270_001, 1_048_600],
  3: [1, 7, 32769, 786_440],
  4: [5, 32769],
  5: [3, 32771],
}

test.each([2, 3, 4, 5])("the bits of ggml's all-reduce over %d servers", async (count) => {
  const random = new Random(count)
  const group = servers.slice(0, count)
  const clients = await linkedClients(group)
  for (const size of sizes[count]!) {
    const parts = clients.map(() => randomFloats(random, size))
    const tensors = await Promise.all(
      clients.map((client, rank) => put(client, bytesOf(parts[rank]!), [size])),
    )
    for (const [rank, client] of clients.entries()) allReduce(client, tensors[rank]!)
    const sum = bytesOf(ggmlSum(parts))
    for (const [rank, client] of clients.entries()) {
      expect(areSame(await client.getTensor(tensors[rank]!, 4 * size), sum)).toBe(true)
    }
  }
  for (const client of clients) client.close()
  for (const server of group) await free(server)
})

/** As on the wire: to the nearest, ties to even. There is no NaN among them. */
const toBf16 = (values: Float32Array): Float32Array => {
  const bits = new Uint32Array(values.slice().buffer)
  const rounded = bits.map((bit) => ((bit + 0x7fff + ((bit >>> 16) & 1)) & 0xffff_0000) >>> 0)
  return new Float32Array(rounded.buffer)
}

test.each([2, 3, 5])("as bf16 all %d servers hold the same, of rounded parts", async (count) => {
  const random = new Random(count)
  const group = servers.slice(0, count)
  const clients = await linkedClients(group)
  const flags = AllReduceFlag.COUNTS | AllReduceFlag.BF16
  for (const size of sizes[count]!) {
    const parts = clients.map(() => randomFloats(random, size))
    const tensors = await Promise.all(
      clients.map((client, rank) => put(client, bytesOf(parts[rank]!), [size])),
    )
    // The last one's does not count.
    for (const [rank, client] of clients.entries()) {
      allReduce(client, tensors[rank]!, rank === count - 1 ? AllReduceFlag.BF16 : flags)
    }
    const whole = ggmlSum(
      parts.map((part, rank) => (rank === count - 1 ? new Float32Array(size) : toBf16(part))),
    )
    // Where each adds up a share, the sum is rounded for the others, and so for all.
    const isShared = count > 2 && size > 32_768
    const sum = bytesOf(isShared ? toBf16(whole) : whole)
    for (const [rank, client] of clients.entries()) {
      expect(areSame(await client.getTensor(tensors[rank]!, 4 * size), sum)).toBe(true)
    }
    for (const [rank, client] of clients.entries()) allReduce(client, tensors[rank]!)
    const again = bytesOf(ggmlSum(clients.map(() => new Float32Array(sum.buffer))))
    for (const [rank, client] of clients.entries()) {
      expect(areSame(await client.getTensor(tensors[rank]!, 4 * size), again)).toBe(true)
    }
  }
  for (const client of clients) client.close()
  for (const server of group) await free(server)
})

/**
 * In the same order, of parts of which servers may have several: what is added up on one server alone is rounded where it meets another's,
 * and the whole where each server adds up a share for the others.
 */
const bf16Sum = (parts: readonly Float32Array[], places: readonly number[]): Float32Array => {
  interface Term {
    readonly values: Float32Array
    readonly place: number | undefined
  }
  const arrived = ({ values, place }: Term): Float32Array =>
    place === undefined ? values : toBf16(values)
  const plus = (a: Float32Array, b: Float32Array): Float32Array => a.map((x, at) => x + b[at]!)
  const add = (a: Term, b: Term | undefined): Term => {
    if (b === undefined) return a
    const isHere = a.place !== undefined && a.place === b.place
    return isHere
      ? { values: plus(a.values, b.values), place: a.place }
      : { values: plus(arrived(a), arrived(b)), place: undefined }
  }
  let terms: readonly Term[] = parts.map((values, part) => ({ values, place: places[part] }))
  for (let half = 2 ** Math.floor(Math.log2(parts.length)); half >= 1; half /= 2) {
    const all = terms
    terms = all.slice(0, half).map((term, at) => add(term, all[at + half]))
  }
  const { values } = terms[0]!
  const isShared = new Set(places).size > 2 && values.length > 32_768
  return isShared ? toBf16(values) : values
}

/** Of which server each part is: alone, all that is added up first is on one server, or none, or some. */
const layouts: readonly (readonly number[])[] = [
  [0, 0],
  [0, 0, 0],
  [0, 0, 1, 1],
  [0, 1, 0, 1],
  [1, 0, 1],
  [0, 1, 1, 0, 1],
  [0, 1, 2, 0, 1, 2],
  [2, 0, 0, 1, 2, 0, 0],
  Array.from({ length: 16 }, (_, part) => part % 3),
]

describe.each(layouts.map((places) => [places.join(""), places] as const))(
  "parts of devices of servers %s",
  (_, places) => {
    const serverCount = new Set(places).size
    // In one message, in several, in shares, and in pieces that devices of a server share the room for.
    const partSizes = places.length === 16 ? [3] : [1, 5, 32_771, 300_001]

    test.each([
      ["floats", 0],
      ["bf16", AllReduceFlag.BF16],
    ])("become one sum, as %s", async (_, flags) => {
      const random = new Random(places.length)
      const group = servers.slice(0, serverCount)
      const clients =
        serverCount === 1 ? [await TestClient.connect(group[0]!.port)] : await linkedClients(group)
      for (const size of partSizes) {
        const parts = places.map(() => randomFloats(random, size))
        const tensors: RpcTensor[] = []
        for (const [part, place] of places.entries()) {
          tensors.push(await put(clients[place]!, bytesOf(parts[part]!), [size]))
        }
        // The second one's does not count.
        const counting = 0xffff & ~2
        for (const [place, client] of clients.entries()) {
          const own = tensors.filter((_, part) => places[part] === place)
          allReduceDevices(client, places, own, { flags, counting })
        }
        const counted = parts.map((part, index) => (index === 1 ? new Float32Array(size) : part))
        // Where nothing travels, nothing is rounded.
        const whole = flags === 0 || serverCount === 1 ? ggmlSum(counted) : bf16Sum(counted, places)
        const sums: Uint8Array[] = []
        for (const [part, place] of places.entries()) {
          sums.push(await clients[place]!.getTensor(tensors[part]!, 4 * size))
        }
        for (const sum of sums) expect(areSame(sum, sums[0]!)).toBe(true)
        expect(areSame(sums[0]!, bytesOf(whole))).toBe(true)
      }
      for (const client of clients) client.close()
      for (const server of group) await free(server)
    })
  },
)

/** Two NaN, of which one is an infinity in its upper half; the sums over all servers are NaN, infinite, NaN and 6. */
const [quietNaN, signallingNaN] = [0x7fc0_0001, 0x7f80_0001]
const special = [
  [quietNaN, 0x7f80_0000, 0x7f80_0000, 0x3f80_0000],
  [signallingNaN, 0x3f80_0000, 0xff80_0000, 0x4000_0000],
  [0x3f80_0000, 0x3f80_0000, 0x3f80_0000, 0x4040_0000],
]

test.each([
  ["as floats", AllReduceFlag.COUNTS],
  ["as bf16", AllReduceFlag.COUNTS | AllReduceFlag.BF16],
])("NaN and infinities are the same for all, %s", async (_, flags) => {
  const group = servers.slice(0, 3)
  const clients = await linkedClients(group)
  // All send to all; and each adds up a share.
  for (const size of [4, 32_772]) {
    const tensors = await Promise.all(
      clients.map((client, rank) => {
        const bits = Uint32Array.from({ length: size }, (_, at) => special[rank]![at % 4]!)
        return put(client, new Uint8Array(bits.buffer), [size])
      }),
    )
    for (const [rank, client] of clients.entries()) allReduce(client, tensors[rank]!, flags)
    const sums = [Number.NaN, Number.POSITIVE_INFINITY, Number.NaN, 6]
    const expected = Array.from({ length: size }, (_, at) => sums[at % 4]!)
    for (const [rank, client] of clients.entries()) {
      expect(toFloats(await client.getTensor(tensors[rank]!, 4 * size))).toEqual(expected)
    }
  }
  for (const client of clients) client.close()
  for (const server of group) await free(server)
})

/** Waits until the server's only client is gone. */
const free = async (server: TestServer): Promise<void> => {
  for (let tries = 0; server.clientCount() > 0 && tries < 1000; tries++) await Bun.sleep(5)
}

describe("two servers", () => {
  let clients: readonly [TestClient, TestClient]
  beforeAll(async () => {
    clients = (await linkedClients(servers.slice(0, 2))) as [TestClient, TestClient]
  })
  afterAll(() => {
    for (const client of clients) client.close()
  })

  const sumOf = async (
    parts: readonly [Uint8Array, Uint8Array],
    counts: readonly [number, number],
    times = 1,
  ) => {
    const ne = [parts[0].length / 4]
    const tensors = [await put(clients[0], parts[0], ne), await put(clients[1], parts[1], ne)]
    for (let time = 0; time < times; time++) {
      for (const [rank, client] of clients.entries()) {
        allReduce(client, tensors[rank]!, counts[rank]!)
      }
    }
    return Promise.all(
      clients.map(async (client, rank) =>
        toFloats(await client.getTensor(tensors[rank]!, parts[0].length)),
      ),
    )
  }

  test("a part that does not count is zero, whatever it is", async () => {
    const nan = floats(Number.NaN, Number.POSITIVE_INFINITY, 7)
    expect(await sumOf([nan, floats(1, 2, 3)], [0, 1])).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ])
    expect(await sumOf([nan, nan], [0, 0])).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ])
  })

  test("many that were asked for at once, one after the other", async () => {
    const [first, second] = await sumOf([floats(1), floats(1)], [1, 1], 100)
    expect([first, second]).toEqual([[2 ** 100], [2 ** 100]])
  })

  test("the sum lies where the part lay, and nothing is exchanged of no elements", async () => {
    const buffers = [await clients[0].allocate(64), await clients[1].allocate(64)]
    for (const [rank, client] of clients.entries()) {
      const buffer = buffers[rank]!
      client.setTensor(f32Tensor(1, buffer, 0, [8]), floats(1, 2, 3, 4, 5, 6, 7, 8))
      allReduce(client, f32Tensor(2, buffer, 8, [0]))
      allReduce(client, f32Tensor(2, buffer, 8, [2, 2]))
    }
    for (const [rank, client] of clients.entries()) {
      const all = await client.getTensor(f32Tensor(1, buffers[rank]!, 0, [8]), 32)
      expect(toFloats(all)).toEqual([1, 2, 6, 8, 10, 12, 7, 8])
    }
  })

  test("links that were given up are made anew, by the other one as well", async () => {
    for (const client of clients) linkFree(client)
    expect(await linkPair(clients, servers, 1, 0)).toEqual([0, 0, 0])
    expect(await sumOf([floats(1), floats(2)], [1, 1])).toEqual([[3], [3]])
  })
})

test("a server is looked up by its name", () =>
  withServer({}, (first) =>
    withServer({}, async (second) => {
      const clients = [await TestClient.connect(first.port), await TestClient.connect(second.port)]
      const named = [first, second].map(({ port }) => ({ port, host: "localhost" }))
      expect(await linkPair(clients, named, 0, 1)).toEqual([0, 0, 0])
      await first.logged("linked this server with 127.0.0.1")
      await second.logged("linked this server with 127.0.0.1")
      for (const client of clients) client.close()
    }),
  ))

/** A client of a server with a token cannot be one of these tests' plain ones: a session is reached by what comes behind the gate. */
describe("tokens", () => {
  const greet = (key: Uint8Array, token: string | undefined, answers: Greeting) => {
    const greeting = new LinkGreeting(key, token)
    let toServer = greeting.first
    for (;;) {
      const verdict = answers.receive(toServer)
      if (verdict === "more") throw new Error("nothing to say")
      if (verdict.kind === "joins") {
        expect(verdict.key).toEqual(shownKey(key))
        return greeting.receive(encodeLinkKeyAnswer(LinkStatus.DONE))
      }
      if (verdict.kind === "refused" && verdict.answer === undefined) return verdict.reason
      if (verdict.kind === "admitted") return "admitted"
      const next = greeting.receive(verdict.answer!)
      if (typeof next !== "object" || "reason" in next) return next
      toServer = next.send
    }
  }
  const key = newKey()

  test("a server shows another one its own first, and then the key", () => {
    expect(greet(key, "secret", new TokenGreeting("secret"))).toBe("linked")
    expect(greet(key, undefined, new HelloGreeting())).toBe("linked")
  })

  test("another one, or none, is not let in", () => {
    expect(greet(key, "other", new TokenGreeting("secret"))).toEqual({
      reason: "has another token than this server, or none",
    })
    expect(greet(key, undefined, new TokenGreeting("secret"))).toContain("showed no token")
  })

  test("a key before the proof is none", () => {
    const greeting = new TokenGreeting("secret")
    const hello = new LinkGreeting(key, "secret").first
    expect(greeting.receive(hello)).toMatchObject({ kind: "answer" })
    expect(greeting.receive(encodeLinkKey(shownKey(key)))).toMatchObject({ kind: "refused" })
  })
})

test("a server with a token is linked with one that asks for none", () =>
  withServer({}, async (open) => {
    const heard: number[] = []
    const links = new PeerLinks({
      ...{ mayDial: () => true, timeoutMs: 5000, token: "secret", onFailure: () => {} },
    })
    const client = await TestClient.connect(open.port)
    const key = newKey()
    const places = { rank: 1, worldSize: 2, peer: 0, key }
    expect(await askLink(client, "LINK_EXPECT", places)).toBe(LinkStatus.DONE)
    const { promise, resolve } = Promise.withResolvers<void>()
    const session = {
      note: (_: number, status: number, fd = -1) => {
        heard.push(status)
        expect(fd).toBeGreaterThan(0)
        resolve()
      },
    }
    const where = { host: "127.0.0.1", port: open.port }
    links.hear(
      session,
      { event: "dial", id: 1, key: key.toHex(), ...where },
      { host: "127.0.0.1", address: "127.0.0.1" },
    )
    await promise
    expect(heard).toEqual([LinkStatus.DONE])
    expect(await askLink(client, "LINK_AWAIT", { peer: 0 })).toBe(LinkStatus.DONE)
    client.close()
    links.close()
  }))
