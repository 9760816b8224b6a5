/** A bad request ends its own session, with one line that names command, field and value; nobody else notices. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import {
  ABSENT_TENSOR,
  Command,
  encodeRequest,
  type RpcTensor,
  TensorFlag,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { type LogEntry, type RunningServer, serve } from "../src/index.ts"
import {
  f32Tensor,
  floats,
  newestOpId,
  node,
  sources,
  type TestBuffer,
  TestClient,
} from "./TestClient.ts"

const BUFFER_BYTES = 4096

const scope = Effect.runSync(Scope.make())
const log: LogEntry[] = []
let server: RunningServer
let witness: TestClient

beforeAll(async () => {
  const options = {
    port: 0,
    threadCount: 1,
    debug: false,
    warmup: false,
    addressLimits: false,
    logWindowMs: 0,
    log: (entry: LogEntry) => log.push(entry),
  }
  server = await Effect.runPromise(Scope.extend(serve(options), scope))
  witness = await TestClient.connect(server.port)
})

afterAll(async () => {
  expect((await witness.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
  witness.close()
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

/** Waits until the server ended the connection, and returns what it logged about it. */
const refusal = async (client: TestClient): Promise<string> => {
  const before = log.length
  await client.closed
  for (let tries = 0; tries < 500; tries++) {
    const lines = log.slice(before).filter(({ level }) => level === "error")
    if (lines.length > 1) throw new Error(`more than one line: ${JSON.stringify(lines)}`)
    if (lines.length === 1) return lines[0]!.message
    await Bun.sleep(5)
  }
  throw new Error(`nothing was logged; the log: ${JSON.stringify(log.slice(-5))}`)
}

/** A header with any payload size, and some payload. */
const raw = (command: number, sizeBytes: bigint, payload = new Uint8Array(0)): Uint8Array => {
  const bytes = new Uint8Array(9 + payload.length)
  bytes[0] = command
  new DataView(bytes.buffer).setBigUint64(1, sizeBytes, true)
  bytes.set(payload, 9)
  return bytes
}

type Send = (client: TestClient) => void
type SendWithBuffer = (client: TestClient, buffer: TestBuffer) => void

describe("framing", () => {
  const hello = { connCaps: new Uint8Array(24) }
  const first: ReadonlyArray<readonly [string, Send, string]> = [
    [
      "another first command",
      (c) => c.send(Command.DEVICE_COUNT, {}),
      "DEVICE_COUNT: command must be HELLO",
    ],
    [
      "a longer HELLO",
      (c) => c.write(raw(14, 25n)),
      "HELLO: payload_size must be 24, or 0 from an older client (got 25)",
    ],
    [
      "HTTP",
      (c) => c.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n")),
      "command must be HELLO on a new connection (got command 71)",
    ],
  ]
  test.each(first)("%s instead of HELLO", async (_, send, expected) => {
    const client = await TestClient.open(server.port)
    send(client)
    expect(await refusal(client)).toContain(expected)
  })

  const later: ReadonlyArray<readonly [string, Send, string]> = [
    ["a second HELLO", (c) => c.send(Command.HELLO, hello), "HELLO: command is only allowed once"],
    ["NONE", (c) => c.write(raw(23, 0n)), "command is unknown (got 23)"],
    ["an unknown command", (c) => c.write(raw(200, 0n)), "command is unknown (got 200)"],
    [
      "a size of 2^53",
      (c) => c.write(raw(6, 2n ** 53n)),
      "SET_TENSOR: payload_size must be at least 305 and below 2^53 (got 2^53 or more)",
    ],
    [
      "a size of 2^64-1",
      (c) => c.write(raw(10, 2n ** 64n - 1n)),
      "GRAPH_COMPUTE: payload_size exceeds the limit of 67108864 bytes (got 2^53 or more)",
    ],
    [
      "a graph above the limit",
      (c) => c.write(raw(10, 2n ** 26n + 1n)),
      "GRAPH_COMPUTE: payload_size exceeds the limit of 67108864 bytes (got 67108865)",
    ],
    [
      "a SET_TENSOR without an offset",
      (c) => c.write(raw(6, 304n)),
      "SET_TENSOR: payload_size must be at least 305",
    ],
  ]
  test.each(later)("%s", async (_, send, expected) => {
    const client = await TestClient.connect(server.port)
    send(client)
    expect(await refusal(client)).toContain(expected)
  })

  const fixedSizes: ReadonlyArray<readonly [string, number, number]> = [
    ["ALLOC_BUFFER", Command.ALLOC_BUFFER, 12],
    ["GET_ALIGNMENT", Command.GET_ALIGNMENT, 4],
    ["GET_MAX_SIZE", Command.GET_MAX_SIZE, 4],
    ["BUFFER_GET_BASE", Command.BUFFER_GET_BASE, 8],
    ["FREE_BUFFER", Command.FREE_BUFFER, 8],
    ["BUFFER_CLEAR", Command.BUFFER_CLEAR, 9],
    ["SET_TENSOR_HASH", Command.SET_TENSOR_HASH, 312],
    ["GET_TENSOR", Command.GET_TENSOR, 312],
    ["COPY_TENSOR", Command.COPY_TENSOR, 592],
    ["GET_DEVICE_MEMORY", Command.GET_DEVICE_MEMORY, 4],
    ["INIT_TENSOR", Command.INIT_TENSOR, 296],
    ["GET_ALLOC_SIZE", Command.GET_ALLOC_SIZE, 3260],
    ["DEVICE_COUNT", Command.DEVICE_COUNT, 0],
    ["GRAPH_RECOMPUTE", Command.GRAPH_RECOMPUTE, 12],
    ["MEMSET_TENSOR", Command.MEMSET_TENSOR, 313],
  ]
  test.each(fixedSizes)("%s of another size", async (name, command, size) => {
    for (const wrong of size === 0 ? [1] : [size - 1, size + 1]) {
      const client = await TestClient.connect(server.port)
      client.write(raw(command, BigInt(wrong), new Uint8Array(wrong)))
      expect(await refusal(client)).toContain(
        `${name}: payload_size must be ${size} (got ${wrong})`,
      )
    }
  })
})

describe("devices and handles", () => {
  const absent = {
    device: 0,
    tensor: ABSENT_TENSOR,
    srcs: Array.from({ length: 10 }, () => ABSENT_TENSOR),
  }
  const cases: ReadonlyArray<readonly [string, SendWithBuffer, string]> = [
    [
      "ALLOC_BUFFER",
      (c) => c.send(Command.ALLOC_BUFFER, { device: 1, sizeBytes: 1n }),
      "device must be below the device count 1 (got 1)",
    ],
    [
      "GET_ALIGNMENT",
      (c) => c.send(Command.GET_ALIGNMENT, { device: 1 }),
      "device must be below the device count 1 (got 1)",
    ],
    [
      "GET_MAX_SIZE",
      (c) => c.send(Command.GET_MAX_SIZE, { device: 2 }),
      "device must be below the device count 1 (got 2)",
    ],
    [
      "GET_DEVICE_MEMORY",
      (c) => c.send(Command.GET_DEVICE_MEMORY, { device: 2 ** 32 - 1 }),
      "device must be below the device count 1 (got 4294967295)",
    ],
    [
      "GRAPH_RECOMPUTE",
      (c) => c.send(Command.GRAPH_RECOMPUTE, { device: 1, uid: 1n }),
      "device must be below the device count 1 (got 1)",
    ],
    [
      "GRAPH_RECOMPUTE",
      (c) => c.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n }),
      "device has no computed graph",
    ],
    [
      "GET_ALLOC_SIZE",
      (c) => c.send(Command.GET_ALLOC_SIZE, { ...absent, device: 9 }),
      "device must be below the device count 1 (got 9)",
    ],
    [
      "GET_ALLOC_SIZE",
      (c) =>
        c.send(Command.GET_ALLOC_SIZE, {
          ...absent,
          srcs: [{ ...ABSENT_TENSOR, id: 1n, type: 4 }, ...absent.srcs.slice(1)],
        }),
      "srcs.type is no type of ggml (got 4)",
    ],
    [
      "BUFFER_GET_BASE",
      (c) => c.send(Command.BUFFER_GET_BASE, { remotePtr: 0n }),
      "remote_ptr is no buffer of this connection (got 0x0)",
    ],
    [
      "BUFFER_GET_BASE",
      (c, b) => c.send(Command.BUFFER_GET_BASE, { remotePtr: b.basePtr }),
      "remote_ptr is no buffer of this connection (got 0x100000000000)",
    ],
    [
      "FREE_BUFFER",
      (c) => c.send(Command.FREE_BUFFER, { remotePtr: 2n ** 64n - 1n }),
      "remote_ptr is no buffer of this connection (got 0xffffffffffffffff)",
    ],
    [
      "BUFFER_CLEAR",
      (c) => c.send(Command.BUFFER_CLEAR, { remotePtr: 77n, value: 0 }),
      "remote_ptr is no buffer of this connection (got 0x4d)",
    ],
  ]
  test.each(cases)("%s: %p", async (command, send, expected) => {
    const client = await TestClient.connect(server.port)
    send(client, await client.allocate(BUFFER_BYTES))
    expect(await refusal(client)).toContain(`${command}: ${expected}`)
  })

  test("a freed buffer is unknown", async () => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(BUFFER_BYTES)
    client.send(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
    client.setTensor(f32Tensor(1, buffer, 0, [4]), floats(1, 2, 3, 4))
    expect(await refusal(client)).toContain(
      "SET_TENSOR: tensor.buffer is no buffer of this connection (got 0x1)",
    )
  })

  test("a buffer of another connection is unknown", async () => {
    const owner = await TestClient.connect(server.port)
    await owner.allocate(BUFFER_BYTES)
    const second = await owner.allocate(BUFFER_BYTES)
    const client = await TestClient.connect(server.port)
    await client.allocate(BUFFER_BYTES)
    client.send(Command.GET_TENSOR, {
      tensor: f32Tensor(1, second, 0, [4]),
      offsetBytes: 0n,
      sizeBytes: 16n,
    })
    expect(await refusal(client)).toContain("GET_TENSOR: tensor.buffer is no buffer")
    owner.close()
  })
})

describe("tensors", () => {
  const nowhere = { remotePtr: 0n, basePtr: 0n }
  const set = (client: TestClient, tensor: RpcTensor, size: number, offset = 0n): void =>
    client.send(Command.SET_TENSOR, {
      tensor,
      cacheFlag: 0,
      offsetBytes: offset,
      data: new Uint8Array(size),
    })
  const get = (client: TestClient, tensor: RpcTensor, sizeBytes: bigint, offsetBytes = 0n): void =>
    client.send(Command.GET_TENSOR, { tensor, offsetBytes, sizeBytes })

  const cases: ReadonlyArray<readonly [string, SendWithBuffer, string]> = [
    [
      "no buffer",
      (c) => set(c, f32Tensor(1, nowhere, 0, [4]), 16),
      "SET_TENSOR: tensor.buffer is no buffer of this connection (got 0x0)",
    ],
    [
      "a removed type",
      (c, b) => set(c, f32Tensor(1, b, 0, [4], { type: 31 }), 16),
      "SET_TENSOR: tensor.type is no type of ggml (got 31)",
    ],
    [
      "a type beyond all",
      (c, b) => set(c, f32Tensor(1, b, 0, [4], { type: 2 ** 32 - 1 }), 16),
      "SET_TENSOR: tensor.type is no type of ggml (got 4294967295)",
    ],
    [
      "half a block",
      (c, b) => set(c, f32Tensor(1, b, 0, [33], { type: 8, nb: [34, 34, 34, 34] }), 34),
      "SET_TENSOR: tensor.ne[0] must be a multiple of the type's block size 32 (got 33)",
    ],
    [
      "an unknown operation",
      (c, b) => set(c, f32Tensor(1, b, 0, [4], { op: 101 }), 16),
      "SET_TENSOR: tensor.op must be below 101 (got 101)",
    ],
    [
      "data before the buffer",
      (c, b) => set(c, f32Tensor(1, b, -4, [4]), 16),
      "SET_TENSOR: tensor.data lies outside its buffer of 4096 bytes",
    ],
    [
      "data behind the buffer",
      (c, b) => set(c, f32Tensor(1, b, BUFFER_BYTES + 4, [4]), 16),
      "SET_TENSOR: tensor.data lies outside its buffer of 4096 bytes",
    ],
    [
      "data that wraps",
      (c, b) => set(c, f32Tensor(1, b, 0, [4], { data: 2n ** 64n - 4n }), 16),
      "SET_TENSOR: tensor.data lies outside its buffer",
    ],
    [
      "a tensor over the end",
      (c, b) => set(c, f32Tensor(1, b, BUFFER_BYTES - 12, [4]), 12),
      "SET_TENSOR: tensor.nb reaches 16 bytes where the buffer has 12 left (got ne[4,1,1,1] nb[4,16,16,16])",
    ],
    [
      "strides over the end",
      (c, b) => set(c, f32Tensor(1, b, 0, [1, 2], { nb: [4, 4096, 0, 0] }), 4),
      "tensor.nb reaches 4100 bytes where the buffer has 4096 left",
    ],
    [
      "rows that do not step",
      (c, b) => set(c, f32Tensor(1, b, 0, [2048], { nb: [0, 0, 0, 0] }), 4),
      "tensor.nb reaches 8192 bytes where the buffer has 4096 left",
    ],
    [
      "a shape of 2^96",
      (c, b) =>
        set(
          c,
          f32Tensor(1, b, 0, [1, 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1], { nb: [4, 0, 0, 0] }),
          4,
        ),
      "tensor.ne makes 2^53 elements or more",
    ],
    [
      "a size of 2^64",
      (c, b) =>
        set(c, f32Tensor(1, b, 0, [2 ** 21, 2 ** 21], { nb: [2 ** 32 - 1, 2 ** 32 - 1, 0, 0] }), 4),
      "tensor.nb makes a size of 2^53 bytes or more",
    ],
    [
      "a write over the tensor's end",
      (c, b) => set(c, f32Tensor(1, b, 0, [4]), 17),
      "SET_TENSOR: payload_size exceeds the 16 bytes of the tensor after offset 0 (got 17)",
    ],
    [
      "a write from behind the tensor",
      (c, b) => set(c, f32Tensor(1, b, 0, [4]), 0, 17n),
      "SET_TENSOR: offset lies outside the tensor's 16 bytes (got 17)",
    ],
    [
      "an offset that wraps",
      (c, b) => set(c, f32Tensor(1, b, 0, [4]), 8, 2n ** 64n - 8n),
      "SET_TENSOR: offset lies outside the tensor's 16 bytes (got 2^53 or more)",
    ],
    [
      "a read over the end",
      (c, b) => get(c, f32Tensor(1, b, 0, [4]), 13n, 4n),
      "GET_TENSOR: size exceeds the 12 bytes of the tensor after offset 4 (got 13)",
    ],
    [
      "a read of 2^64-1",
      (c, b) => get(c, f32Tensor(1, b, 0, [4]), 2n ** 64n - 1n),
      "GET_TENSOR: size exceeds the 16 bytes of the tensor after offset 0 (got 2^53 or more)",
    ],
    [
      "a read at 2^63",
      (c, b) => get(c, f32Tensor(1, b, 0, [4]), 1n, 2n ** 63n),
      "GET_TENSOR: offset lies outside the tensor's 16 bytes",
    ],
    [
      "MEMSET_TENSOR over the end",
      (c, b) =>
        c.send(Command.MEMSET_TENSOR, {
          tensor: f32Tensor(1, b, 0, [4]),
          offsetBytes: 8n,
          sizeBytes: 9n,
          value: 1,
        }),
      "MEMSET_TENSOR: size exceeds the 8 bytes of the tensor after offset 8 (got 9)",
    ],
    [
      "COPY_TENSOR from nowhere",
      (c, b) =>
        c.send(Command.COPY_TENSOR, {
          src: f32Tensor(1, nowhere, 0, [4]),
          dst: f32Tensor(2, b, 0, [4]),
        }),
      "COPY_TENSOR: src.buffer is no buffer",
    ],
    [
      "COPY_TENSOR to nowhere",
      (c, b) =>
        c.send(Command.COPY_TENSOR, {
          src: f32Tensor(1, b, 0, [4]),
          dst: f32Tensor(2, nowhere, 0, [4]),
        }),
      "COPY_TENSOR: dst.buffer is no buffer",
    ],
    [
      "COPY_TENSOR into less room",
      (c, b) =>
        c.send(Command.COPY_TENSOR, {
          src: f32Tensor(1, b, 0, [16]),
          dst: f32Tensor(2, b, BUFFER_BYTES - 4, [1]),
        }),
      "COPY_TENSOR: dst.data has 4 bytes to the end of its buffer, src needs (got 64)",
    ],
    [
      "INIT_TENSOR of a bad type",
      (c, b) => c.send(Command.INIT_TENSOR, { tensor: f32Tensor(1, b, 0, [4], { type: 5 }) }),
      "INIT_TENSOR: tensor.type is no type of ggml (got 5)",
    ],
    [
      "GET_ALLOC_SIZE of a bad shape",
      (c) =>
        c.send(Command.GET_ALLOC_SIZE, {
          device: 0,
          tensor: f32Tensor(1, nowhere, 0, [2 ** 21, 2 ** 21], {
            nb: [2 ** 32 - 1, 2 ** 32 - 1, 0, 0],
          }),
          srcs: Array.from({ length: 10 }, () => ABSENT_TENSOR),
        }),
      "GET_ALLOC_SIZE: tensor.nb makes a size of 2^53 bytes or more",
    ],
  ]
  test.each(cases)("%s", async (_, send, expected) => {
    const client = await TestClient.connect(server.port)
    send(client, await client.allocate(BUFFER_BYTES))
    expect(await refusal(client)).toContain(expected)
  })
})

describe("graphs", () => {
  interface Parts {
    readonly nodes: bigint[]
    readonly tensors: RpcTensor[]
  }
  /** `3 = 1 + 2`, changed by the case. */
  const graph = (buffer: TestBuffer, change: (parts: Parts) => Partial<Parts>): Parts => {
    const parts = {
      nodes: [3n],
      tensors: [
        f32Tensor(1, buffer, 0, [4]),
        f32Tensor(2, buffer, 64, [4]),
        f32Tensor(3, buffer, 128, [4], node("ADD", 1, 2)),
      ],
    }
    return { ...parts, ...change(parts) }
  }
  const third =
    (fields: Partial<RpcTensor>) =>
    (parts: Parts): Partial<Parts> => ({
      tensors: [parts.tensors[0]!, parts.tensors[1]!, { ...parts.tensors[2]!, ...fields }],
    })
  const first =
    (fields: Partial<RpcTensor>) =>
    (parts: Parts): Partial<Parts> => ({
      tensors: [{ ...parts.tensors[0]!, ...fields }, ...parts.tensors.slice(1)],
    })
  const unary = (kind: number, op: string): Partial<RpcTensor> => ({
    ...node(op, 1),
    opParams: [kind, ...Array.from({ length: 15 }, () => 0)],
  })

  const cases: ReadonlyArray<readonly [string, (parts: Parts) => Partial<Parts>, string]> = [
    ["node id 0", () => ({ nodes: [0n] }), "nodes[0] must not be 0"],
    ["an unknown node", () => ({ nodes: [3n, 4n] }), "nodes[1] is not among the tensors (got 0x4)"],
    [
      "an unknown source",
      third({ src: sources(1, 2 ** 40) }),
      "tensors[2].src[1] is not among the tensors (got 0x10000000000)",
    ],
    [
      "an unknown source with the low half of a known one",
      third({ src: sources(1, 2n ** 32n + 2n) }),
      "tensors[2].src[1] is not among the tensors (got 0x100000002)",
    ],
    [
      "an unknown view source",
      third({ viewSrc: 9n }),
      "tensors[2].view_src is not among the tensors (got 0x9)",
    ],
    ["a cycle of two", first({ src: sources(3) }), "tensors[0].src[0] closes a cycle (got 0x3)"],
    [
      "a cycle through a view",
      first({ viewSrc: 3n }),
      "tensors[0].view_src closes a cycle (got 0x3)",
    ],
    ["a view of itself", third({ viewSrc: 3n }), "tensors[2].view_src closes a cycle (got 0x3)"],
    ["a bad type in a source", first({ type: 38 }), "tensors[0].type is no type of ggml (got 38)"],
    [
      "a source out of its buffer",
      first({ ne: [2048, 1, 1, 1] }),
      "tensors[0].nb reaches 8192 bytes where the buffer has 4096 left",
    ],
    [
      "a source in an unknown buffer",
      first({ buffer: 55n }),
      "tensors[0].buffer is no buffer of this connection (got 0x37)",
    ],
    [
      "a source with data and no buffer",
      first({ buffer: 0n, data: 64n }),
      "tensors[0].data must be 0 for a tensor without a buffer (got 0x40)",
    ],
    [
      "a source without memory",
      first({ buffer: 0n, data: 0n }),
      "tensors[0].buffer is 0, but node 0 reads this tensor",
    ],
    [
      "a result without memory",
      third({ buffer: 0n, data: 0n }),
      "tensors[2].buffer is 0, but node 0 computes this tensor",
    ],
    [
      "a source that is missing",
      third({ src: sources(1) }),
      "tensors[2].src[1] is 0, but ADD reads it",
    ],
    [
      "an operation beyond all",
      third({ op: 2 ** 31 }),
      "tensors[2].op must be below 101 (got 2147483648)",
    ],
    [
      "a unary kind beyond all",
      third(unary(22, "UNARY")),
      "tensors[2].op_params[0] must be below 22 (got 22)",
    ],
    [
      "a negative unary kind",
      third(unary(-1, "UNARY")),
      "tensors[2].op_params[0] must be below 22 (got 4294967295)",
    ],
    [
      "a gated kind beyond all",
      third(unary(7, "GLU")),
      "tensors[2].op_params[0] must be below 7 (got 7)",
    ],
    [
      "MAP_CUSTOM1",
      third(node("MAP_CUSTOM1", 1)),
      "tensors[2].op calls a function of the client, which is never run (got MAP_CUSTOM1)",
    ],
    ["MAP_CUSTOM2", third(node("MAP_CUSTOM2", 1, 2)), "tensors[2].op calls a function"],
    ["MAP_CUSTOM3", third(node("MAP_CUSTOM3", 1, 2, 2)), "tensors[2].op calls a function"],
    [
      "CUSTOM, even when it is not computed",
      third({ op: newestOpId("CUSTOM"), flags: 0 }),
      "tensors[2].op calls a function",
    ],
    [
      "a view that leads out",
      third({ viewSrc: 1n, viewOffset: 4090n }),
      "tensors[2].view_offs leads out of the 4096 bytes of the viewed tensor's buffer (got 4090)",
    ],
    [
      "a view offset that wraps",
      third({ viewSrc: 1n, viewOffset: 2n ** 64n - 4n }),
      "tensors[2].view_offs leads out",
    ],
    [
      "a view whose data is elsewhere",
      third({ viewSrc: 1n, viewOffset: 4n }),
      "tensors[2].view_offs must lead from the viewed tensor's data to this one's (got 4)",
    ],
  ]
  test.each(cases)("%s", async (_, change, expected) => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(BUFFER_BYTES)
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, ...graph(buffer, change) })
    expect(await refusal(client)).toContain(`GRAPH_COMPUTE: ${expected}`)
  })

  test("a view in another buffer", async () => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(BUFFER_BYTES)
    const other = await client.allocate(BUFFER_BYTES)
    const view = { ...f32Tensor(3, other, 0, [4], node("ADD", 1, 2)), viewSrc: 1n }
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, ...graph(buffer, third(view)) })
    expect(await refusal(client)).toContain(
      "GRAPH_COMPUTE: tensors[2].buffer must be that of the viewed tensor",
    )
  })

  test("a multiplication by a type that no kernel takes", async () => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(BUFFER_BYTES)
    const integers = first({ type: 26 })
    const parts = graph(buffer, (before) => {
      const tensors = [...(integers(before).tensors ?? [])]
      tensors[1] = { ...tensors[1]!, type: 26 }
      tensors[2] = { ...tensors[2]!, ...node("MUL_MAT", 1, 2), ne: [1, 1, 1, 1] }
      return { tensors }
    })
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, ...parts })
    expect(await refusal(client)).toContain(
      "GRAPH_COMPUTE: tensors[2] cannot be computed: src[0] cannot be I32 (got MUL_MAT F32 ne[1,1,1,1]",
    )
  })

  test("a multiplication that takes more memory than there is", async () => {
    const client = await TestClient.connect(server.port)
    const [columns, rows] = [2 ** 20, 2 ** 20]
    const buffer = await client.allocate(4 * columns + 2 * columns + 4 * rows)
    // A million rows that all lie in the same place: a terabyte of activations to convert.
    const tensors = [
      f32Tensor(1, buffer, 0, [columns], {
        type: 8,
        nb: [34, ...Array(3).fill((34 * columns) / 32)],
      }),
      f32Tensor(2, buffer, 2 * columns, [columns, rows], { nb: [4, 0, 0, 0] }),
      f32Tensor(3, buffer, 6 * columns, [1, rows], node("MUL_MAT", 1, 2)),
    ]
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [3n], tensors })
    expect(await refusal(client)).toContain(
      "GRAPH_COMPUTE: nodes need more memory besides the tensors than this machine has now (got ",
    )
  })

  test("another device", async () => {
    const client = await TestClient.connect(server.port)
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 1, nodes: [], tensors: [] })
    expect(await refusal(client)).toContain(
      "GRAPH_COMPUTE: device must be below the device count 1 (got 1)",
    )
  })

  const shortened: ReadonlyArray<readonly [string, (view: DataView) => number, string]> = [
    ["nothing", () => 11, "payload_size must be at least 20 (got 11)"],
    [
      "fewer ids than announced",
      (view) => {
        view.setUint32(21, 2 ** 32 - 1, true)
        return -1
      },
      "n_nodes does not fit a payload of",
    ],
    [
      "fewer tensors than announced",
      (view) => {
        view.setUint32(33, 4, true)
        return -1
      },
      "n_tensors does not fit a payload of",
    ],
  ]
  test.each(shortened)("%s", async (_, change, expected) => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(BUFFER_BYTES)
    const request = encodeRequest(Command.GRAPH_COMPUTE, {
      device: 0,
      ...graph(buffer, () => ({})),
    })
    const view = new DataView(request.buffer)
    const size = change(view)
    if (size >= 0) view.setBigUint64(1, BigInt(size), true)
    client.write(size >= 0 ? request.subarray(0, 9 + size) : request)
    expect(await refusal(client)).toContain(`GRAPH_COMPUTE: ${expected}`)
  })

  test("answers to earlier requests still arrive", async () => {
    const client = await TestClient.connect(server.port)
    client.write(Buffer.concat([encodeRequest(Command.DEVICE_COUNT, {}), raw(99, 0n)]))
    expect((await client.answer(Command.DEVICE_COUNT)).deviceCount).toBe(1)
    expect(await refusal(client)).toContain("command is unknown (got 99)")
  })
})

test("a flag alone does not run a node that has no operation", async () => {
  const client = await TestClient.connect(server.port)
  const buffer = await client.allocate(BUFFER_BYTES)
  const tensor = f32Tensor(1, buffer, 0, [4], { flags: TensorFlag.COMPUTE })
  client.setTensor(tensor, floats(1, 2, 3, 4))
  client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [1n], tensors: [tensor] })
  expect(await client.getTensor(tensor, 16)).toEqual(floats(1, 2, 3, 4))
  client.close()
})
