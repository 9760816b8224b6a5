/**
 * Where the tensors of a case lie: each memory is a buffer of its own between guards, whose other bytes must stay as they
 * are.
 */
import { dlopen } from "bun:ffi"
import { type Address, asPointer, librarySet } from "@ggml-rpc/native/bindings"
import { Command, encodeRequest, RpcTensor, types } from "@ggml-rpc/protocol"
import { TensorCheck } from "../../packages/server/src/session/graph/TensorCheck.ts"
import { Buffers, type SessionBuffer } from "../../packages/server/src/session/memory/buffers.ts"
import { newestSpoken } from "../../packages/server/src/session/spoken.ts"
import { Random } from "../../packages/server/test/Random.ts"
import { type GuardedMemory, guardedMemory } from "./guardedMemory.ts"
import type { CaseTensor, Contents, NodeCase } from "./nodeCase.ts"

/** Memories of a case, and the sizes that each has: powers of two from a page on. */
const MEMORY_COUNT = 32
const SIZE_COUNT = 9
const PAGE_BYTES = 4096
const LARGEST_BYTES = PAGE_BYTES << (SIZE_COUNT - 1)

/** `TENSOR_ALIGNMENT` of ggml-impl.h. */
const BUFFER_ALIGNMENT = 32

/** What lies around the tensors. */
const CANARY = 0xa5

/** Where a memory of a case lies in its pages. */
export interface MemoryPlace {
  /** Index of the size. */
  readonly size: number
  /** Bytes of the tensors in it. */
  readonly usedBytes: number
  /** First byte of the tensors, from the start of the pages. */
  readonly startBytes: number
}

/** Reads how far a tensor reaches, as the session does. */
class Reach {
  readonly #check = new TensorCheck(new Buffers(), newestSpoken.dialects[0]!)
  readonly #view = new DataView(new ArrayBuffer(RpcTensor.size))
  readonly #words = new Uint32Array(this.#view.buffer)

  /** Bytes; 0 when the session refuses the tensor anyway. */
  bytesOf({ record }: CaseTensor): number {
    RpcTensor.encode({ ...record, op: 0 }, this.#view)
    try {
      this.#check.check(this.#words, 0, "tensor", "lenient")
    } catch {
      return 0
    }
    return Math.min(this.#check.reachBytes, LARGEST_BYTES)
  }
}

const reach = new Reach()

/** The place of each memory of a case, by index; undefined for one that no tensor lies in. */
export const layOut = ({ tensors, placing }: NodeCase): readonly (MemoryPlace | undefined)[] => {
  const used: number[] = []
  for (const tensor of tensors) {
    const end = tensor.offsetBytes + reach.bytesOf(tensor)
    used[tensor.memory] = Math.min(LARGEST_BYTES, Math.max(used[tensor.memory] ?? 0, end))
  }
  return Array.from(used, (usedBytes) => {
    if (usedBytes === undefined) return undefined
    const pages = Math.max(1, Math.ceil(usedBytes / PAGE_BYTES))
    const size = Math.ceil(Math.log2(pages))
    const room = (PAGE_BYTES << size) - usedBytes
    const startBytes =
      placing === "start" ? 0 : placing === "end" ? room : room - (room % BUFFER_ALIGNMENT)
    return { size, usedBytes, startBytes }
  })
}

const openBuffers = () =>
  dlopen(librarySet().ggmlBase, {
    ggml_backend_cpu_buffer_from_ptr: { args: ["ptr", "u64"], returns: "ptr" },
  }).symbols

interface Memory extends GuardedMemory {
  /** `ggml_backend_buffer_t` of all its pages. */
  readonly native: Address
  readonly before: Uint8Array
}

/** A change of a byte that no tensor may write. */
export interface StrayByte {
  readonly memory: number
  /** From the start of the tensors in that memory. */
  readonly offsetBytes: number
}

export class Arena {
  readonly #memories: Memory[][]
  readonly #contents = new ContentsPool()
  #places: readonly (MemoryPlace | undefined)[] = []
  #buffers: (SessionBuffer | undefined)[] = []

  constructor() {
    const library = openBuffers()
    this.#memories = Array.from({ length: MEMORY_COUNT }, () =>
      Array.from({ length: SIZE_COUNT }, (_, size) => {
        const memory = guardedMemory(PAGE_BYTES << size)
        const { address, sizeBytes } = memory
        const native = library.ggml_backend_cpu_buffer_from_ptr(asPointer(address), sizeBytes)
        return { ...memory, native: native as Address, before: new Uint8Array(sizeBytes) }
      }),
    )
  }

  /** First address of each memory's pages, by size. */
  get addresses(): readonly (readonly Address[])[] {
    return this.#memories.map((sizes) => sizes.map(({ address }) => address))
  }

  /** Puts a case into memory; returns the payload of GRAPH_COMPUTE for it. */
  place(nodeCase: NodeCase, buffers: Buffers): Uint8Array {
    this.#places = layOut(nodeCase)
    this.#buffers = this.#places.map((place, index) => {
      if (place === undefined) return undefined
      const { native, address, bytes } = this.#memories[index]![place.size]!
      bytes.fill(CANARY)
      const bufferStart = place.startBytes - (place.startBytes % BUFFER_ALIGNMENT)
      const sizeBytes = place.startBytes + place.usedBytes - bufferStart
      const nativeBase = address + bufferStart
      const device = 0
      return buffers.add(
        { device, native, sizeBytes, nativeBase, isHost: true, isOwn: true, tailBytes: 0 },
        BUFFER_ALIGNMENT,
      )
    })
    for (const tensor of nodeCase.tensors) this.#fill(tensor)
    this.#places.forEach((place, index) => {
      if (place === undefined) return
      const { bytes, before } = this.#memories[index]![place.size]!
      before.set(bytes)
    })
    return this.#payload(nodeCase)
  }

  /** Takes the case's buffers back. */
  clear(buffers: Buffers): void {
    for (const buffer of this.#buffers) if (buffer !== undefined) buffers.remove(buffer)
  }

  #fill(tensor: CaseTensor): void {
    const place = this.#places[tensor.memory]!
    const { bytes } = this.#memories[tensor.memory]![place.size]!
    const start = place.startBytes + tensor.offsetBytes
    const end = Math.min(start + reach.bytesOf(tensor), place.startBytes + place.usedBytes)
    if (end <= start) return
    const { type } = tensor.record
    bytes.set(this.#contents.of(type, tensor.contents).subarray(0, end - start), start)
    const elementBytes = types.find(({ id }) => id === type)?.typeSize ?? 1
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    for (const { index, value } of tensor.elements) {
      const at = start + index * elementBytes
      if (at + elementBytes > end) continue
      if (elementBytes === 8) view.setBigInt64(at, value, true)
      else if (elementBytes === 4) view.setInt32(at, Number(BigInt.asIntN(32, value)), true)
      else view.setInt8(at, Number(BigInt.asIntN(8, value)))
    }
  }

  #payload({ tensors, nodes }: NodeCase): Uint8Array {
    const placed = tensors.map(({ record, memory, offsetBytes }) => {
      const buffer = this.#buffers[memory]!
      const inside = this.#places[memory]!.startBytes % BUFFER_ALIGNMENT
      // An empty buffer has no address.
      const data = buffer.base === 0 ? 0 : buffer.base + inside + offsetBytes
      return { ...record, buffer: BigInt(buffer.id), data: BigInt(data) }
    })
    const ids = nodes.map((index) => tensors[index]!.record.id)
    const graph = { uid: 0n, device: 0, nodes: ids, tensors: placed }
    return encodeRequest(Command.GRAPH_COMPUTE, graph).subarray(9)
  }

  /** The first byte that changed although it belongs to nothing that the nodes write. */
  strayByte({ tensors }: NodeCase): StrayByte | undefined {
    for (const [memory, place] of this.#places.entries()) {
      if (place === undefined) continue
      const { bytes, before } = this.#memories[memory]![place.size]!
      for (const tensor of tensors) {
        if (tensor.memory !== memory || !tensor.isWritten) continue
        const start = place.startBytes + tensor.offsetBytes
        const end = Math.min(start + reach.bytesOf(tensor), place.startBytes + place.usedBytes)
        if (end > start) before.set(bytes.subarray(start, end), start)
      }
      if (Buffer.compare(bytes, before) === 0) continue
      const at = bytes.findIndex((byte, index) => byte !== before[index])
      return { memory, offsetBytes: at - place.startBytes }
    }
    return undefined
  }
}

/** Bytes for tensors of each type. */
class ContentsPool {
  readonly #pools = new Map<string, Uint8Array>()

  of(type: number, contents: Contents): Uint8Array {
    const key = `${type} ${contents}`
    const known = this.#pools.get(key)
    if (known !== undefined) return known
    const made = makeContents(type, contents)
    this.#pools.set(key, made)
    return made
  }
}

const oddFloats = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 3e38, -3e38]
const oddMore = [1e-40, 1, -1, 65_504, 1e9, -1e-9]

const makeContents = (type: number, contents: Contents): Uint8Array => {
  const random = new Random(type)
  const bytes = new Uint8Array(LARGEST_BYTES)
  const name = types.find(({ id }) => id === type)?.name ?? ""
  const isOdd = contents === "odd"
  const float = (): number =>
    isOdd ? random.pick([...oddFloats, ...oddMore]) : (random.below(4001) - 2000) / 1000
  const view = new DataView(bytes.buffer)
  if (name === "F32") {
    for (let at = 0; at < bytes.length; at += 4) view.setFloat32(at, float(), true)
  } else if (name === "F16") {
    for (let at = 0; at < bytes.length; at += 2) view.setFloat16(at, float(), true)
  } else if (name === "BF16") {
    const scratch = new DataView(new ArrayBuffer(4))
    for (let at = 0; at < bytes.length; at += 2) {
      scratch.setFloat32(0, float(), true)
      view.setUint16(at, scratch.getUint16(2, true), true)
    }
  } else if (name.startsWith("I") && !name.startsWith("IQ")) {
    const size = types.find(({ id }) => id === type)!.typeSize
    for (let at = 0, index = 0; at < bytes.length; at += size, index++) bytes[at] = index % 2
  } else {
    for (let at = 0; at < bytes.length; at++) bytes[at] = isOdd ? 0xff : random.below(256)
  }
  return bytes
}
