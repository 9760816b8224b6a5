import {
  type Address,
  asPointer,
  type Device,
  deviceMemory,
  ggml,
  io,
  listDevices,
  type MemorySize,
} from "@ggml-rpc/native/bindings"
import type { HostMemory } from "./HostMemory.ts"

/** ggml may take so much to compute with unasked: what stays free is for that as well. */
const UNASKED_WORK_BYTES = 16 * 1024 * 1024

/** A page, but of some ARM machines, where they are larger: there files are read. */
const PAGE_BYTES = 4096

/** A device of this server, as the commands need it. */
export class ServedDevice {
  readonly device: Device
  readonly bufferType: Address
  readonly alignmentBytes: number
  /** -1: no limit. */
  readonly maxSizeBytes: number
  /** Whether every tensor takes just its own bytes. */
  readonly sizesArePlain: boolean
  readonly threadCount: number
  /** Whether a graph that was started goes on while this process does something else. */
  readonly isAsync: boolean
  #backend: Address = 0
  /** What ggml has been granted to compute with, and keeps. */
  #workBytes = 0

  /** `mapsFiles`: weights may be files that are mapped, for which they have to begin with a page of the host's memory. */
  constructor(device: Device, threadCount: number, { mapsFiles = false } = {}) {
    const symbols = ggml()
    this.device = device
    this.threadCount = threadCount
    this.isAsync = symbols.gs_device_is_async(asPointer(device.address)) !== 0
    this.bufferType = symbols.ggml_backend_dev_buffer_type(asPointer(device.address)) as Address
    this.alignmentBytes = Math.max(
      symbols.gs_buft_alignment(asPointer(this.bufferType)),
      mapsFiles && this.usesHostMemory ? PAGE_BYTES : 1,
    )
    this.maxSizeBytes = symbols.gs_buft_max_size(asPointer(this.bufferType))
    this.sizesArePlain = symbols.gs_buft_sizes_are_plain(asPointer(this.bufferType)) !== 0
  }

  /** Whether its memory is that of the host. */
  get usesHostMemory(): boolean {
    return this.device.type === "CPU" || this.device.type === "ACCEL"
  }

  /** Total bytes, and those that a client can have now. */
  memory(host: HostMemory): MemorySize {
    return this.usesHostMemory ? host.read() : deviceMemory(this.device)
  }

  /** Whether `sizeBytes` can be asked of it; a device with memory of its own says so itself. */
  hasMemoryFor(sizeBytes: number, host: HostMemory): boolean {
    return !this.usesHostMemory || host.hasRoomFor(sizeBytes)
  }

  /** The same for memory that ggml takes to compute a graph, and keeps for the next one. */
  hasWorkMemoryFor(workBytes: number, host: HostMemory): boolean {
    if (workBytes <= Math.max(this.#workBytes, UNASKED_WORK_BYTES)) return true
    if (!this.hasMemoryFor(workBytes - this.#workBytes, host)) return false
    this.#workBytes = workBytes
    return true
  }

  /** Waits for the graph that was started; whether it came to its end. */
  synchronize(): boolean {
    return ggml().gs_backend_synchronize(asPointer(this.#backend)) === 0
  }

  /** Another client starts: nothing is granted. */
  forget(): void {
    this.#workBytes = 0
  }

  /**
   * Its backend, made at the first use: on a GPU that takes memory and time, which a client that only
   * asks questions should not cost. 0 when the device refuses.
   */
  backend(): Address {
    if (this.#backend !== 0) return this.#backend
    const symbols = ggml()
    this.#backend = symbols.ggml_backend_dev_init(asPointer(this.device.address), null) as Address
    if (this.#backend === 0) return 0
    symbols.gs_backend_set_threads(asPointer(this.#backend), this.threadCount)
    symbols.gs_backend_set_abort_flag(asPointer(this.#backend), io().io_abort_flag())
    return this.#backend
  }
}

/** All accelerators, else one CPU; upstream's rpc-server `get_devices` (7.0.0). */
const defaultDevices = (devices: readonly Device[]): readonly Device[] => {
  const accelerators = devices.filter((device) => device.type !== "CPU" && device.type !== "ACCEL")
  return accelerators.length > 0
    ? accelerators
    : devices.filter((device) => device.type === "CPU").slice(0, 1)
}

/** The devices to serve, or the first name that no device has. */
export const selectDevices = (
  names: readonly string[] | undefined,
): { readonly devices: readonly Device[] } | { readonly unknown: string } => {
  const all = listDevices()
  if (names === undefined) return { devices: defaultDevices(all) }
  const devices: Device[] = []
  for (const name of names) {
    const device = all.find((candidate) => candidate.name === name)
    if (device === undefined) return { unknown: name }
    devices.push(device)
  }
  return { devices }
}
