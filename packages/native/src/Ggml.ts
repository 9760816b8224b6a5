/**
 * ggml as an Effect service: devices, and the backends, buffers and graphs of this process.
 *
 * Scopes release what is acquired. Tensors are packed records (`tensorRecord.ts`); reading, writing
 * and computing are plain synchronous calls that block and check nothing.
 */
import type { Pointer } from "bun:ffi"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { type Address, asPointer } from "./io.ts"
import { type Device, ggml, listDevices, loadBackends, takeLog } from "./libggml.ts"
import { libraryErrorOf, type NativeLibraryError } from "./libraries.ts"
import { deviceMemory, type MemorySize } from "./memory.ts"
import type { PrebuiltMissingError } from "./prebuilt.ts"
import { defaultThreadCount } from "./processor.ts"
import { tensorRecordBytes } from "./tensorRecord.ts"

/** A device with its memory at the time it was asked. */
export interface DeviceState extends Device, MemorySize {}

export interface BackendOptions {
  /** Threads of a CPU backend; one per physical core. */
  readonly threads?: number
  /** `io_abort_flag()`: lets it stop a running graph of a CPU backend. */
  readonly abortFlag?: Address
}

/** A device that cannot be started. */
export class BackendError extends Data.TaggedError("BackendError")<{
  readonly device: string
  /** What ggml logged about it. */
  readonly log: string
}> {
  override get message() {
    return `The device ${this.device} cannot be started (${this.log || "ggml logged no reason"}): check its driver, or use another device.`
  }
}

/** Memory that a device does not have. */
export class BufferAllocError extends Data.TaggedError("BufferAllocError")<{
  readonly device: string
  readonly sizeBytes: number
  /** Free at the time, as the device reports it. */
  readonly freeBytes: number
  /** What ggml logged about it. */
  readonly log: string
}> {
  override get message() {
    return `The device ${this.device} cannot allocate ${this.sizeBytes} bytes (${this.freeBytes} are free): free memory there, or put less on it.`
  }
}

/** Memory that this machine does not have for a graph. */
export class GraphError extends Data.TaggedError("GraphError")<{
  readonly nodeCount: number
}> {
  override get message() {
    return `This machine has no memory for a graph of ${this.nodeCount} nodes: free some.`
  }
}

export interface Backend {
  readonly address: Address
  readonly device: Device
}

/** Memory on a device. */
export interface DeviceBuffer {
  readonly address: Address
  readonly device: Device
  /** Address of the first byte; only `isHost` makes it one of this process. */
  readonly baseAddress: Address
  /** At least what was asked for. */
  readonly sizeBytes: number
  readonly isHost: boolean
  /** Sets every byte. */
  readonly clear: (value: number) => void
}

export interface Graph {
  /** Runs all nodes, and waits. @returns ggml_status: 0 success, 1 aborted, -1 failed, -2 no memory */
  readonly compute: () => number
}

export class Ggml extends Context.Tag("@ggml-rpc/native/Ggml")<
  Ggml,
  {
    /** All devices of the loaded backends in ggml's order, with their memory now. */
    readonly devices: Effect.Effect<ReadonlyArray<DeviceState>>
    /** Starts a device for computing; ends with the scope. */
    readonly backend: (
      device: Device,
      options?: BackendOptions,
    ) => Effect.Effect<Backend, BackendError, Scope.Scope>
    /** Allocates memory on a device; freed when the scope closes. */
    readonly buffer: (
      device: Device,
      sizeBytes: number,
    ) => Effect.Effect<DeviceBuffer, BufferAllocError, Scope.Scope>
    /**
     * Makes a graph of tensor records, which are copied; freed when the scope closes.
     *
     * @param nodes 1-based places of the records to compute, in order
     * @param records see `tensorRecords`; their buffers must outlive the graph
     */
    readonly graph: (
      backend: Backend,
      nodes: Uint32Array,
      records: Uint8Array,
    ) => Effect.Effect<Graph, GraphError, Scope.Scope>
  }
>() {}

const devices = Effect.sync(() =>
  listDevices().map((device) => ({ ...device, ...deviceMemory(device) })),
)

const backend = (
  device: Device,
  options: BackendOptions = {},
): Effect.Effect<Backend, BackendError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      takeLog()
      const pointer = ggml().ggml_backend_dev_init(asPointer(device.address), null)
      if (pointer === null) {
        return Effect.fail(new BackendError({ device: device.name, log: takeLog() }))
      }
      const started = pointer as Pointer
      ggml().gs_backend_set_threads(started, options.threads ?? defaultThreadCount())
      if (options.abortFlag !== undefined) {
        ggml().gs_backend_set_abort_flag(started, asPointer(options.abortFlag))
      }
      return Effect.succeed({ address: started as Address, device })
    }),
    ({ address }) => Effect.sync(() => ggml().ggml_backend_free(asPointer(address))),
  )

const buffer = (
  device: Device,
  sizeBytes: number,
): Effect.Effect<DeviceBuffer, BufferAllocError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
        throw new RangeError(`A buffer cannot have ${sizeBytes} bytes.`)
      }
      takeLog()
      const type = ggml().ggml_backend_dev_buffer_type(asPointer(device.address)) as Pointer
      const address = ggml().gs_buffer_alloc(type, sizeBytes)
      return address === null
        ? Effect.fail(
            new BufferAllocError({
              device: device.name,
              sizeBytes,
              freeBytes: deviceMemory(device).freeBytes,
              log: takeLog(),
            }),
          )
        : Effect.succeed(deviceBuffer(device, address as Address))
    }),
    ({ address }) => Effect.sync(() => ggml().gs_buffer_free(asPointer(address))),
  )

const deviceBuffer = (device: Device, address: Address): DeviceBuffer => ({
  address,
  device,
  baseAddress: ggml().gs_buffer_base(asPointer(address)),
  sizeBytes: ggml().gs_buffer_size(asPointer(address)),
  isHost: ggml().ggml_backend_buffer_is_host(asPointer(address)),
  clear: (value) => ggml().gs_buffer_clear(asPointer(address), value),
})

const graph = (
  { address }: Backend,
  nodes: Uint32Array,
  records: Uint8Array,
): Effect.Effect<Graph, GraphError, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.suspend(() => {
        const recordCount = records.length / tensorRecordBytes
        if (
          !Number.isInteger(recordCount) ||
          nodes.some((node) => !(node >= 1 && node <= recordCount))
        ) {
          throw new RangeError(
            `A graph needs whole records and nodes from 1 to their count; there are ${recordCount}.`,
          )
        }
        const built = ggml().gs_graph_build(nodes, nodes.length, records, recordCount)
        return built === null
          ? Effect.fail(new GraphError({ nodeCount: nodes.length }))
          : Effect.succeed(built as Pointer)
      }),
      (built) => Effect.sync(() => ggml().gs_graph_free(built)),
    ),
    (built) => ({ compute: () => ggml().gs_graph_compute(asPointer(address), built, 1) }),
  )

/** Opens the libraries and loads all backends, which stay until the process ends. */
export const layer: Layer.Layer<Ggml, NativeLibraryError | PrebuiltMissingError> = Layer.effect(
  Ggml,
  Effect.try({
    try: () => {
      loadBackends()
      return Ggml.of({ devices, backend, buffer, graph })
    },
    catch: libraryErrorOf,
  }),
)
