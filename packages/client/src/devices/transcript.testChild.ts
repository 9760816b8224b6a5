/**
 * Does on a remote device what a recorded client of upstream's did on one, for tests/clientTranscripts.test.ts. Arguments: the
 * server's port, and what to do, a JSON list of `Step`. Tensors are the recorded ones, encoded; buffers and the graph are
 * ggml's, on the device.
 */
import { dlopen, FFIType, ptr, read } from "bun:ffi"
import { type Address, asPointer, ggml, librarySet, loadBackends } from "@ggml-rpc/native/bindings"
import { send } from "@ggml-rpc/native/worker/child"
import { RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceOperations } from "./DeviceOperations.ts"
import { Exchange } from "./Exchange.ts"
import { RemoteDevices } from "./RemoteDevices.ts"

/** Bytes are hexadecimal. */
export type Step =
  | { readonly do: "alloc"; readonly sizeBytes: number }
  | { readonly do: "set"; readonly tensor: string; readonly offset: number; readonly data: string }
  | { readonly do: "get"; readonly tensor: string; readonly offset: number; readonly size: number }
  | {
      readonly do: "memset"
      readonly tensor: string
      readonly offset: number
      readonly size: number
      readonly value: number
    }
  /** `nodes` are places in `tensors`, from 1 on, and so are the sources in these. */
  | {
      readonly do: "graph"
      readonly tensors: string
      readonly nodes: ReadonlyArray<number>
      readonly uid: readonly [low: number, high: number]
    }
  | { readonly do: "free" }

/** What the device gave, and whether the connection broke. */
export interface Said {
  readonly reads: ReadonlyArray<string>
  readonly failure: string | null
}

/** Word offsets in an encoded tensor: the buffer, and the data's address. */
const BUFFER = 12
const DATA = 220
const RECORD_BYTES = 296

const [port, steps] = process.argv.slice(2) as [string, string]

loadBackends(0)
const connection = new RpcConnection({ host: "127.0.0.1", port: Number(port) })
connection.open(5000)
const remote = new RemoteDevices([connection])
remote.beginWork()
const { operations } = remote as unknown as { readonly operations: DeviceOperations }
const exchange = new Exchange()
const device = remote.devices[0]!.address
const type = ggml().ggml_backend_dev_buffer_type(asPointer(device))
let buffer: Address = 0
let graph: { readonly built: Address; readonly uid: string } | undefined

/** As libllama does it: the shim's own way would clear the memory, too. */
const { ggml_backend_buft_alloc_buffer: allocate } = dlopen(librarySet().ggmlBase, {
  ggml_backend_buft_alloc_buffer: { args: ["ptr", FFIType.u64_fast], returns: "ptr" },
}).symbols

/** The records with the device's own buffer in place of the server's handle of it. */
const localRecords = (hex: string): Uint8Array => {
  const records = Buffer.from(hex, "hex")
  for (let at = 0; at < records.length; at += RECORD_BYTES) {
    records.writeBigUInt64LE(BigInt(buffer), at + BUFFER)
    if (records.readBigUInt64LE(at + DATA) === 0n) throw new Error("a tensor lies nowhere")
  }
  return records
}

/** ggml gives a graph that stays its uid again. */
const builtGraph = (step: Step & { readonly do: "graph" }): Address => {
  const uid = step.uid.join(":")
  if (graph?.uid === uid) return graph.built
  const records = localRecords(step.tensors)
  const built = ggml().gs_graph_build(
    ...([Uint32Array.from(step.nodes), step.nodes.length, records] as const),
    records.length / RECORD_BYTES,
  ) as Address
  graph = { built, uid }
  return built
}

const reads: Array<string> = []

const run = (step: Step): void => {
  if (step.do === "alloc") {
    buffer = allocate(type, step.sizeBytes) as Address
    ggml().gs_buffer_base(asPointer(buffer))
  } else if (step.do === "free") {
    ggml().gs_buffer_free(asPointer(buffer))
  } else if (step.do === "graph") {
    // The shim's `built_graph`: a context, then the graph.
    operations.graphCompute(0, read.ptr(asPointer(builtGraph(step)), 8), ...step.uid)
  } else {
    exchange.tensor.set(Buffer.from(step.tensor, "hex"))
    if (step.do === "set") {
      const data = Uint8Array.from(Buffer.from(step.data, "hex"))
      operations.setTensor(0, ptr(data) as Address, step.offset, data.length, false, data.length, 0)
    } else if (step.do === "memset") {
      operations.memsetTensor(0, step.value, step.offset, step.size)
    } else {
      const data = new Uint8Array(step.size)
      operations.getTensor(0, ptr(data) as Address, step.offset, step.size, false)
      reads.push(Buffer.from(data).toString("hex"))
    }
  }
}

for (const step of JSON.parse(steps) as ReadonlyArray<Step>) run(step)
remote.settle()
send({ reads, failure: remote.failure?.message ?? null } satisfies Said)
process.exit(0)
