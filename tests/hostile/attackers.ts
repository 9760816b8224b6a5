/**
 * Clients that mean no good, as a program: `bun attackers.ts KIND COUNT PORT SECONDS`. It ends by itself, and prints what
 * it did as a line of JSON.
 */
import { Command, encodeRequest, noConnCaps } from "@ggml-rpc/protocol"
import { f32Tensor, node, TestClient } from "../../packages/server/test/TestClient.ts"

export type AttackKind =
  /** Connect and say nothing. */
  | "silent"
  /** Say a byte of HELLO every 3 seconds, and come again when they are cut off. */
  | "drip"
  /** Connect and close, one connection after the other. */
  | "close"
  /** Say HELLO and close, one connection after the other. */
  | "hello"
  /** Take a buffer and send a graph that is refused, over and over. */
  | "refuse"
  /** The same, after a graph that was computed: the process cannot serve another client. */
  | "compute"

export interface AttackReport {
  /** Connections that came about. */
  readonly connectionCount: number
}

const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })
const FIRST_BUFFER = { remotePtr: 1n, basePtr: 1n << 44n }
const input = f32Tensor(1, FIRST_BUFFER, 0, [4])
const sum = f32Tensor(2, FIRST_BUFFER, 64, [4], node("ADD", 1, 1))
const outside = f32Tensor(3, FIRST_BUFFER, 1 << 30, [4], node("ADD", 1, 1))
const alloc = encodeRequest(Command.ALLOC_BUFFER, { device: 0, sizeBytes: 4096n })
const graph = { uid: 1n, device: 0 }
const good = encodeRequest(Command.GRAPH_COMPUTE, { ...graph, nodes: [2n], tensors: [input, sum] })
const bad = encodeRequest(Command.GRAPH_COMPUTE, {
  ...graph,
  nodes: [3n],
  tensors: [input, outside],
})

const openOrWait = async (port: number): Promise<TestClient | undefined> => {
  try {
    return await TestClient.open(port)
  } catch {
    await Bun.sleep(10)
    return undefined
  }
}

const within = (ms: number, promise: Promise<unknown>): Promise<unknown> =>
  Promise.race([promise, Bun.sleep(Math.max(0, ms))])

/** What a client does with a connection; resolves when it is over with it. */
const acts: Record<AttackKind, (client: TestClient, leftMs: () => number) => Promise<void>> = {
  silent: async (client, leftMs) => {
    await within(leftMs(), client.closed)
  },
  drip: async (client, leftMs) => {
    for (const byte of hello.subarray(0, -1)) {
      if (client.isClosed || leftMs() <= 0) return
      client.write(Uint8Array.of(byte))
      await within(Math.min(3000, leftMs()), client.closed)
    }
  },
  close: async () => {},
  hello: async (client) => {
    client.write(hello)
    await client.flushed()
  },
  refuse: async (client, leftMs) => {
    client.write(Buffer.concat([hello, alloc, bad]))
    await within(leftMs(), client.closed)
  },
  compute: async (client, leftMs) => {
    client.write(Buffer.concat([hello, alloc, good, bad]))
    await within(leftMs(), client.closed)
  },
}

/** Attacks a server with so many clients at a time. */
export const attack = async (
  kind: AttackKind,
  clientCount: number,
  port: number,
  seconds: number,
): Promise<AttackReport> => {
  const end = performance.now() + seconds * 1000
  const leftMs = (): number => end - performance.now()
  let connectionCount = 0
  const loop = async (): Promise<void> => {
    while (leftMs() > 0) {
      const client = await openOrWait(port)
      if (client === undefined) continue
      connectionCount++
      await acts[kind](client, leftMs)
      client.close()
    }
  }
  await Promise.all(Array.from({ length: clientCount }, loop))
  return { connectionCount }
}

if (import.meta.main) {
  const [kind, count, port, seconds] = process.argv.slice(2)
  console.log(
    JSON.stringify(await attack(kind as AttackKind, Number(count), Number(port), Number(seconds))),
  )
}
