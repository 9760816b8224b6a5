/** For `guardedBuffer.test.ts`: touches one place of a buffer, and says so if it lives on. */
import { type Pointer, toArrayBuffer } from "bun:ffi"
import { ggml, io, listDevices, loadBackends } from "./bindings.ts"
import { asPointer } from "./io.ts"
import { tensorRecords } from "./tensorRecord.ts"

export interface Touch {
  readonly sizeBytes: number
  /** From the buffer's first byte. */
  readonly at: number
  /** `compute`: ggml's kernel writes four numbers there, which `at` must be aligned for. */
  readonly how: "read" | "write" | "compute" | "read freed"
}

const { sizeBytes, at, how } = JSON.parse(process.argv[2] ?? "{}") as Touch
io().io_expect_crash()
loadBackends()
const symbols = ggml()
const device = listDevices().find(({ type }) => type === "CPU")!
const type = symbols.ggml_backend_dev_buffer_type(asPointer(device.address)) as Pointer
const buffer = symbols.gs_buffer_alloc(type, sizeBytes) as Pointer
const base = symbols.gs_buffer_base(buffer)
if (how === "compute") {
  const four = { type: 0, ne: [4], buffer: { address: Number(buffer) } }
  const [source, result] = [
    { ...four, data: base },
    { ...four, data: base + at, op: 2, src: [1, 1] },
  ]
  const backend = symbols.ggml_backend_dev_init(asPointer(device.address), null)
  const records = tensorRecords([source, result])
  const graph = symbols.gs_graph_build(Uint32Array.of(2), 1, records, 2)
  symbols.gs_graph_compute(backend, graph, 1)
} else {
  if (how === "read freed") symbols.gs_buffer_free(buffer)
  const place = new Uint8Array(toArrayBuffer(asPointer(base + at), 0, 1))
  if (how === "write") place[0] = 1
  else if (place[0] !== 0) throw new Error("memory of a new buffer is not zero")
}
console.log("lives")
