import { type Address, asPointer, io } from "@ggml-rpc/native/bindings"

/** What one connection holds at most; its memory is taken as it is used, from the beginning again whenever all has gone. */
export const OUTBOX_BYTES = 32 * 1024 * 1024

/** So many holes are filled before the lists are moved up. */
const COMPACT_HOLES = 256

/**
 * Requests that cannot leave yet, as a stream of bytes: the socket takes no more now, or they stand behind a hole, which is
 * data that another server is still to answer (`Source` is its connection). Holes are filled in place, in whatever order,
 * and what is filled may leave before the rest of the hole comes.
 *
 * A position counts the bytes of the stream, modulo the memory's size it is the place in memory.
 */
export class Outbox<Source> {
  private memory: Address = 0
  private head = 0
  private tail = 0
  private readonly starts: Array<number> = []
  private readonly ends: Array<number> = []
  private readonly filled: Array<number> = []
  private readonly sources: Array<Source> = []
  private first = 0

  get sizeBytes(): number {
    return this.tail - this.head
  }

  get roomBytes(): number {
    return OUTBOX_BYTES - this.sizeBytes
  }

  /** Bytes that may leave now. */
  get readyBytes(): number {
    return (this.first < this.ends.length ? this.filled[this.first]! : this.tail) - this.head
  }

  /** Where the answer comes from that the next byte is of; undefined: that one is here. */
  get awaited(): Source | undefined {
    return this.sizeBytes > 0 && this.readyBytes === 0 ? this.sources[this.first] : undefined
  }

  /** Position of the next byte to leave. */
  get headPosition(): number {
    return this.head
  }

  addressOf(position: number): Address {
    return this.memory + (position % OUTBOX_BYTES)
  }

  /** How many of `sizeBytes` from this position on lie in one piece. */
  pieceBytes(position: number, sizeBytes: number): number {
    return Math.min(sizeBytes, OUTBOX_BYTES - (position % OUTBOX_BYTES))
  }

  /** Copies data behind the rest. There has to be room. */
  push(data: Address, sizeBytes: number): void {
    this.open()
    for (let at = 0; at < sizeBytes; ) {
      const size = this.pieceBytes(this.tail, sizeBytes - at)
      io().io_copy(asPointer(this.addressOf(this.tail)), 0, asPointer(data + at), size)
      this.tail += size
      at += size
    }
  }

  /** Room for data that is to come, behind the rest; its position. There has to be so much room. */
  pushHole(sizeBytes: number, source: Source): number {
    this.open()
    const start = this.tail
    this.tail += sizeBytes
    this.starts.push(start)
    this.ends.push(this.tail)
    this.filled.push(start)
    this.sources.push(source)
    return start
  }

  /** The hole at this position has its first `sizeBytes`. */
  fill(start: number, sizeBytes: number): void {
    const hole = this.starts.indexOf(start, this.first)
    this.filled[hole] = start + sizeBytes
    while (this.first < this.ends.length && this.filled[this.first] === this.ends[this.first]) {
      this.first++
    }
    if (this.first === this.ends.length || this.first >= COMPACT_HOLES) this.compact()
  }

  /** So many bytes have left. */
  shift(sizeBytes: number): void {
    this.head += sizeBytes
    // The first pages again, as long as there is nothing: a hole keeps its position.
    if (this.head === this.tail) this.head = this.tail = 0
  }

  close(): void {
    if (this.memory !== 0) io().io_release_memory(asPointer(this.memory), OUTBOX_BYTES)
    this.memory = this.head = this.tail = 0
  }

  private open(): void {
    if (this.memory === 0) this.memory = Number(io().io_reserve_memory(OUTBOX_BYTES))
  }

  private compact(): void {
    for (const list of [this.starts, this.ends, this.filled, this.sources]) {
      list.splice(0, this.first)
    }
    this.first = 0
  }
}
