/**
 * Partial sums added up in this process, for servers of every version: read from all at once, and the sum written back in the
 * block of the graph that follows. One read and one write a server for each all-reduce.
 */
import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { ExtensionCommand } from "@ggml-rpc/protocol"
import type { AllReduce, Group } from "./AllReduce.ts"
import { putGetTensor, putGetTensorBf16, putSetTensor, putSetTensorBf16 } from "./requests.ts"

/** More of each partial sum is done piece by piece, so that a long prompt takes no more memory here. */
const PIECE_ELEMENTS = 1024 * 1024
const ELEMENT_BYTES = 4
const BF16_BYTES = 2

export class ClientSums implements AllReduce {
  private readonly group: Group
  /** The pieces of all members, one after the other. */
  private parts = new Float32Array(0)
  /** The same as bf16, where members' travel so. */
  private halves = new Uint16Array(0)
  private readonly tickets: Array<number>
  /** By member. */
  private readonly isBf16: ReadonlyArray<boolean>

  constructor(group: Group) {
    this.group = group
    this.tickets = group.members.map(() => 0)
    this.isBf16 = group.members.map(({ connection }) => group.isBf16 && connection.speaksBf16)
  }

  reduce(elementCount: number, counting: number): void {
    for (let first = 0; first < elementCount; first += PIECE_ELEMENTS) {
      this.reducePiece(first, Math.min(PIECE_ELEMENTS, elementCount - first), counting)
    }
  }

  close(): void {
    this.parts = new Float32Array(0)
    this.halves = new Uint16Array(0)
  }

  private reducePiece(first: number, elementCount: number, counting: number): void {
    const { exchange, members } = this.group
    const offset = first * ELEMENT_BYTES
    const sizeBytes = elementCount * ELEMENT_BYTES
    const wireBytes = elementCount * BF16_BYTES
    const parts = this.room(elementCount)
    const halves = this.halvesRoom(elementCount)
    for (let member = 0; member < members.length; member++) {
      if (((counting >> member) & 1) === 0) continue
      const { connection } = members[member]!
      const record = exchange.parts[member]!
      if (this.isBf16[member]) {
        putGetTensorBf16(connection, record, offset, wireBytes)
        const target = halves + member * wireBytes
        const command = ExtensionCommand.GET_TENSOR_BF16
        this.tickets[member] = connection.expect(target, wireBytes, command)
      } else {
        putGetTensor(connection, record, offset, sizeBytes)
        this.tickets[member] = connection.expect(parts + member * sizeBytes, sizeBytes)
      }
    }
    // All are asked before the first is waited for: a wait sends what has collected on every connection.
    for (let member = 0; member < members.length; member++) {
      if (((counting >> member) & 1) !== 0) {
        members[member]!.connection.drainTo(this.tickets[member]!)
        if (this.isBf16[member]) {
          const [part, half] = [parts + member * sizeBytes, halves + member * wireBytes]
          ggml().gs_f32_from_bf16(asPointer(part), asPointer(half), elementCount)
        }
      }
    }
    ggml().gs_add_parts(asPointer(parts), members.length, elementCount, counting)
    if (halves !== 0) {
      // For those who get floats as well: all have to compute with the same.
      ggml().gs_bf16_from_f32(asPointer(halves), asPointer(parts), elementCount)
      ggml().gs_f32_from_bf16(asPointer(parts), asPointer(halves), elementCount)
    }
    for (let member = 0; member < members.length; member++) {
      const { connection } = members[member]!
      if (this.isBf16[member]) {
        putSetTensorBf16(connection, exchange.parts[member]!, offset, wireBytes)
        connection.append(halves, wireBytes)
      } else {
        putSetTensor(connection, exchange.parts[member]!, 0, offset, sizeBytes)
        connection.append(parts, sizeBytes)
      }
    }
  }

  /** 0 where nothing travels as bf16. */
  private halvesRoom(elementCount: number): Address {
    if (!this.isBf16.includes(true)) return 0
    const count = elementCount * this.group.members.length
    if (this.halves.length < count) this.halves = new Uint16Array(count)
    return ptr(this.halves) as Address
  }

  private room(elementCount: number): Address {
    const count = elementCount * this.group.members.length
    if (this.parts.length < count) this.parts = new Float32Array(count)
    return ptr(this.parts) as Address
  }
}
