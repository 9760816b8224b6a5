/**
 * A connection that was recorded from a client of upstream's, replayed by ours: a server that has only the recorded answers
 * hears the recorded requests, byte for byte, but for this:
 *
 * - Upstream asks for the count of devices on a connection of its own; ours on the one that it keeps, before all else.
 * - What upstream sends in one two-dimensional command ours sends run by run; see docs/decisions.md.
 * - Ids of tensors in a graph are addresses; in all other places they are the recorded ones here.
 * - Where a load is to be complete ours asks for that count once more and waits (`RemoteDevices.settle`); so at the end here.
 * - How often leaves are used is 0: the graph here is none of libllama's, and lists nodes alone. Servers read those of nodes.
 *
 * The recorded links between servers are none of a client that splits by layers.
 */
import { expect, test } from "bun:test"
import { join } from "node:path"
import {
  Command,
  commandName,
  decodeRequest,
  encodeRequest,
  encodeResponse,
  newest,
  REQUEST_HEADER_SIZE_BYTES,
  RESPONSE_HEADER_SIZE_BYTES,
  type RequestOf,
  RpcTensor,
} from "@ggml-rpc/protocol"
import type { Said, Step } from "../packages/client/src/devices/transcript.testChild.ts"
import { type Recorded, transcripts } from "../packages/protocol/fixtures/vectors.ts"

const child = join(
  import.meta.dir,
  ...["..", "packages", "client", "src", "devices", "transcript.testChild.ts"],
)

const [probe, main] = transcripts as unknown as readonly [
  { readonly messages: readonly Recorded[] },
  { readonly messages: readonly Recorded[] },
]

const payloadOf = ({ bytes }: Recorded): Uint8Array => bytes.subarray(REQUEST_HEADER_SIZE_BYTES)

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

const hexTensor = (tensor: RpcTensor): string => {
  const bytes = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(tensor, new DataView(bytes.buffer))
  return hex(bytes)
}

/** The tensors of a graph with places instead of ids, from 1 on. */
const placed = ({ nodes, tensors }: RequestOf<typeof Command.GRAPH_COMPUTE>) => {
  const place = (id: bigint): number => tensors.findIndex((tensor) => tensor.id === id) + 1
  return {
    nodes: nodes.map(place),
    tensors: tensors.map((tensor) => ({
      ...tensor,
      id: BigInt(place(tensor.id)),
      src: tensor.src.map((id) => BigInt(place(id))),
    })),
  }
}

type Request = readonly [command: number, bytes: Uint8Array]

/** What upstream's client did, as what ours shall do and what that is to send. */
const replayOf = (message: Recorded, last: Recorded | undefined): [Step[], Request[]] => {
  const { command, bytes } = message
  const same: Request[] = [[command, bytes]]
  switch (command) {
    case Command.ALLOC_BUFFER: {
      const { sizeBytes } = decodeRequest(command, payloadOf(message))
      return [[{ do: "alloc", sizeBytes: Number(sizeBytes) }], same]
    }
    case Command.SET_TENSOR: {
      const { tensor, offsetBytes, data } = decodeRequest(command, payloadOf(message))
      const step = { tensor: hexTensor(tensor), offset: Number(offsetBytes), data: hex(data) }
      return [[{ do: "set", ...step }], same]
    }
    case Command.GET_TENSOR: {
      const { tensor, offsetBytes, sizeBytes } = decodeRequest(command, payloadOf(message))
      const step = { offset: Number(offsetBytes), size: Number(sizeBytes) }
      return [[{ do: "get", tensor: hexTensor(tensor), ...step }], same]
    }
    case Command.SET_TENSOR_2D:
    case Command.GET_TENSOR_2D:
      return runsOf(message)
    case Command.MEMSET_TENSOR: {
      const value = decodeRequest(command, payloadOf(message))
      const step = { offset: Number(value.offsetBytes), size: Number(value.sizeBytes) }
      const tensor = hexTensor(value.tensor)
      return [[{ do: "memset", tensor, value: value.value, ...step }], same]
    }
    case Command.GRAPH_COMPUTE:
    case Command.GRAPH_RECOMPUTE: {
      const graph = decodeRequest(Command.GRAPH_COMPUTE, payloadOf(last!))
      const { nodes, tensors } = placed(graph)
      const uid = graph.uid ?? 0n
      const halves = [Number(uid & 0xffff_ffffn), Number(uid >> 32n)] as const
      return [[{ do: "graph", nodes, tensors: tensors.map(hexTensor).join(""), uid: halves }], same]
    }
    case Command.FREE_BUFFER:
      return [[{ do: "free" }], same]
    // Asked by all clients when they open a server or make a buffer.
    default:
      return [[], same]
  }
}

/** A two-dimensional command run by run. */
const runsOf = (message: Recorded): [Step[], Request[]] => {
  const isSet = message.command === Command.SET_TENSOR_2D
  const value = isSet
    ? decodeRequest(Command.SET_TENSOR_2D, payloadOf(message))
    : { ...decodeRequest(Command.GET_TENSOR_2D, payloadOf(message)), data: new Uint8Array() }
  const { tensor, data } = value
  const size = Number(value.sizeBytes)
  const steps: Step[] = []
  const requests: Request[] = []
  for (let run = 0; run < Number(value.runCount); run++) {
    const offset = Number(value.offsetBytes) + run * Number(value.strideBytes)
    const at = { tensor: hexTensor(tensor), offset }
    const part = data.slice(run * size, (run + 1) * size)
    steps.push(isSet ? { do: "set", ...at, data: hex(part) } : { do: "get", ...at, size })
    const offsetBytes = BigInt(offset)
    requests.push(
      isSet
        ? [
            Command.SET_TENSOR,
            encodeRequest(Command.SET_TENSOR, { tensor, cacheFlag: 0, offsetBytes, data: part }),
          ]
        : [
            Command.GET_TENSOR,
            encodeRequest(Command.GET_TENSOR, { tensor, offsetBytes, sizeBytes: BigInt(size) }),
          ],
    )
  }
  return [steps, requests]
}

/** Recorded answers in turn, by command; those to two-dimensional reads as what each run reads. */
const answersOf = (messages: readonly Recorded[]): Map<number, Uint8Array[]> => {
  const answers = new Map<number, Uint8Array[]>()
  const put = (command: number, bytes: Uint8Array): void => {
    answers.set(command, [...(answers.get(command) ?? []), bytes])
  }
  for (const { from, command, bytes } of messages) {
    if (from !== "server") continue
    if (command !== Command.GET_TENSOR_2D) put(command, bytes)
    else {
      const data = bytes.subarray(RESPONSE_HEADER_SIZE_BYTES)
      for (const half of [data.slice(0, 8), data.slice(8)]) {
        put(Command.GET_TENSOR, encodeResponse(Command.GET_TENSOR, { data: half }))
      }
    }
  }
  return answers
}

/** A server that has these answers, and keeps what it hears. */
const scriptedServer = (answers: Map<number, Uint8Array[]>) => {
  const heard: Request[] = []
  let rest: Uint8Array = new Uint8Array()
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(socket, bytes) {
        rest = Uint8Array.from(Buffer.concat([rest, bytes]))
        for (;;) {
          if (rest.length < REQUEST_HEADER_SIZE_BYTES) return
          const size = Number(new DataView(rest.buffer).getBigUint64(1, true))
          const end = REQUEST_HEADER_SIZE_BYTES + size
          if (rest.length < end) return
          const command = rest[0]!
          heard.push([command, rest.slice(0, end)])
          rest = rest.slice(end)
          const queue = answers.get(command)
          // The last one again, where ours asks once more.
          const answer = queue !== undefined && queue.length > 1 ? queue.shift() : queue?.[0]
          if (answer !== undefined) socket.write(answer)
        }
      },
    },
  })
  return { heard, port: listener.port, stop: () => listener.stop(true) }
}

/** Graphs with places for ids and without the uses of leaves; what else is sent as it is. */
const comparable = ([command, bytes]: Request) => {
  if (command !== Command.GRAPH_COMPUTE) return { command: commandName(command), bytes: hex(bytes) }
  const graph = decodeRequest(command, bytes.slice(REQUEST_HEADER_SIZE_BYTES))
  const { nodes, tensors } = placed(graph)
  return {
    ...{ command: commandName(command), device: graph.device, uid: graph.uid, nodes },
    tensors: tensors.map((tensor) => (tensor.op === 0 ? { ...tensor, useCount: 0 } : tensor)),
  }
}

test("a recorded client's requests are ours, byte for byte", async () => {
  expect(newest.version.major).toBe(8)
  const server = scriptedServer(answersOf([...main.messages, ...probe.messages]))
  const steps: Step[] = []
  const expected: Request[] = []
  let lastGraph: Recorded | undefined
  for (const message of main.messages.filter(({ from }) => from === "client")) {
    if (message.command === Command.GRAPH_COMPUTE) lastGraph = message
    const [more, requests] = replayOf(message, lastGraph)
    steps.push(...more)
    expected.push(...requests)
  }
  const count = probe.messages.find(({ command }) => command === Command.DEVICE_COUNT)!
  const asked: Request = [count.command, count.bytes]
  const [hello, ...others] = expected
  const running = Bun.spawn([process.execPath, child, String(server.port), JSON.stringify(steps)], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  const { reads, failure } = JSON.parse(await running.stdout.text()) as Said
  server.stop()
  expect(failure).toBeNull()
  expect(server.heard.map(comparable)).toEqual([hello!, asked, ...others, asked].map(comparable))
  const results = main.messages.flatMap(({ from, command, bytes }) =>
    from === "server" && (command === Command.GET_TENSOR || command === Command.GET_TENSOR_2D)
      ? [hex(bytes.subarray(RESPONSE_HEADER_SIZE_BYTES))]
      : [],
  )
  expect(reads.join("")).toBe(results.join(""))
})
