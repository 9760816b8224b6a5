/**
 * Partial sums added up in this process, for servers of every version: read from all at once, and the sum written back in the
 * block of the graph that follows. One read and one write a server for each all-reduce.
 */
import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import type { AllReduce, Group } from "./AllReduce.ts"
import { putGetTensor, putSetTensor } from "./requests.ts"

/** More of each partial sum is done piece by piece, so that a long prompt takes no more memory here. */
const PIECE_ELEMENTS = 1024 * 1024
const ELEMENT_BYTES = 4

export class ClientSums implements AllReduce {
  private readonly group: Group
  /** The pieces of all members, one after the other. */
  private parts = new Float32Array(0)
  private readonly tickets: Array<number>

  constructor(group: Group) {
    this.group = group
    this.tickets = group.members.map(() => 0)
  }

  reduce(elementCount: number, counting: number): void {
    for (let first = 0; first < elementCount; first += PIECE_ELEMENTS) {
      this.reducePiece(first, Math.min(PIECE_ELEMENTS, elementCount - first), counting)
    }
  }

  close(): void {
    this.parts = new Float32Array(0)
  }

  private reducePiece(first: number, elementCount: number, counting: number): void {
    const { exchange, members } = this.group
    const offset = first * ELEMENT_BYTES
    const sizeBytes = elementCount * ELEMENT_BYTES
    const parts = this.room(elementCount)
    for (let member = 0; member < members.length; member++) {
      if (((counting >> member) & 1) === 0) continue
      const { connection } = members[member]!
      putGetTensor(connection, exchange.parts[member]!, offset, sizeBytes)
      this.tickets[member] = connection.expect((parts + member * sizeBytes) as Address, sizeBytes)
    }
    // All are asked before the first is waited for: a wait sends what has collected on every connection.
    for (let member = 0; member < members.length; member++) {
      if (((counting >> member) & 1) !== 0) {
        members[member]!.connection.drainTo(this.tickets[member]!)
      }
    }
    ggml().gs_add_parts(asPointer(parts), members.length, elementCount, counting)
    for (let member = 0; member < members.length; member++) {
      const { connection } = members[member]!
      putSetTensor(connection, exchange.parts[member]!, 0, offset, sizeBytes)
      connection.append(parts, sizeBytes)
    }
  }

  private room(elementCount: number): Address {
    const count = elementCount * this.group.members.length
    if (this.parts.length < count) this.parts = new Float32Array(count)
    return ptr(this.parts) as Address
  }
}
