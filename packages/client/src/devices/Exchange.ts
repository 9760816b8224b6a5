import { toArrayBuffer } from "bun:ffi"
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { RpcTensor, readU64AsNumber, writeU64FromNumber } from "@ggml-rpc/protocol"

/** The shim's `tensor_record`, which has the layout of the protocol's tensor. */
const RECORD_SIZE_BYTES = RpcTensor.size

/**
 * The shim's `remote_exchange`: one record, another, and those of ten sources, then u64 fields; records of partial sums, and the
 * numbers of devices, i32.
 */
const OTHER_OFFSET = RECORD_SIZE_BYTES
const SOURCES_OFFSET = 2 * RECORD_SIZE_BYTES
const REMOTE_PTR_OFFSET = 12 * RECORD_SIZE_BYTES
const BASE_OFFSET = REMOTE_PTR_OFFSET + 8
const SIZE_OFFSET = REMOTE_PTR_OFFSET + 16
const FREE_OFFSET = REMOTE_PTR_OFFSET + 24
const TOTAL_OFFSET = REMOTE_PTR_OFFSET + 32
const PARTS_OFFSET = REMOTE_PTR_OFFSET + 40
/** Devices that a tensor can be cut over: ggml-backend.h `GGML_BACKEND_META_MAX_DEVICES` (v0.5.0). */
const MAX_MEMBERS = 16
const MEMBERS_OFFSET = PARTS_OFFSET + MAX_MEMBERS * RECORD_SIZE_BYTES
const END = MEMBERS_OFFSET + MAX_MEMBERS * 4

/**
 * The block of the shim through which goes what a callback needs beyond its arguments: the tensors of the operation,
 * and what the callback found out.
 */
export class Exchange {
  /** Encoded: the tensor of an operation, another one, and ten sources. Views that stay, as they are used for every token. */
  readonly tensor: Uint8Array
  readonly other: Uint8Array
  readonly sources: Uint8Array
  /** The partial sum of each device of a group, in the group's order. */
  readonly parts: ReadonlyArray<Uint8Array>
  private readonly view: DataView

  constructor() {
    const size = ggml().gs_remote_exchange_size()
    if (size !== END) {
      throw new Error(`the shim's exchange block has ${size} bytes where ${END} are known`)
    }
    const memory = toArrayBuffer(asPointer(ggml().gs_remote_exchange() as Address), 0, size)
    this.tensor = new Uint8Array(memory, 0, RECORD_SIZE_BYTES)
    this.other = new Uint8Array(memory, OTHER_OFFSET, RECORD_SIZE_BYTES)
    this.sources = new Uint8Array(memory, SOURCES_OFFSET, REMOTE_PTR_OFFSET - SOURCES_OFFSET)
    this.parts = Array.from(
      { length: MAX_MEMBERS },
      (_, member) =>
        new Uint8Array(memory, PARTS_OFFSET + member * RECORD_SIZE_BYTES, RECORD_SIZE_BYTES),
    )
    this.view = new DataView(memory)
  }

  /** The server's handle of a buffer. */
  get remotePtr(): bigint {
    return this.view.getBigUint64(REMOTE_PTR_OFFSET, true)
  }

  /** Id of the tensor of an operation. */
  get tensorId(): number {
    return readU64AsNumber(this.view, RpcTensor.offsets.id)
  }

  /** Id and name of the other one. */
  get otherId(): number {
    return readU64AsNumber(this.view, OTHER_OFFSET + RpcTensor.offsets.id)
  }

  get otherName(): string {
    const name = this.other.subarray(RpcTensor.offsets.name)
    const end = name.indexOf(0)
    return new TextDecoder().decode(end < 0 ? name : name.subarray(0, end))
  }

  /** Bytes of what the shim tells of. */
  get size(): number {
    return readU64AsNumber(this.view, SIZE_OFFSET)
  }

  /** The numbers of the first `count` devices of a group. */
  members(count: number): ReadonlyArray<number> {
    return Array.from({ length: count }, (_, member) =>
      this.view.getInt32(MEMBERS_OFFSET + member * 4, true),
    )
  }

  putBuffer(remotePtr: bigint, base: bigint, sizeBytes: bigint): void {
    this.view.setBigUint64(REMOTE_PTR_OFFSET, remotePtr, true)
    this.view.setBigUint64(BASE_OFFSET, base, true)
    this.view.setBigUint64(SIZE_OFFSET, sizeBytes, true)
  }

  putSize(sizeBytes: number): void {
    writeU64FromNumber(this.view, SIZE_OFFSET, sizeBytes)
  }

  putMemory(freeBytes: number, totalBytes: number): void {
    writeU64FromNumber(this.view, FREE_OFFSET, freeBytes)
    writeU64FromNumber(this.view, TOTAL_OFFSET, totalBytes)
  }
}
