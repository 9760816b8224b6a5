/*
 * FNV-1a-64: start 0xcbf29ce484222325; per byte xor, then multiply by 0x100000001b3 mod 2^64. ggml-rpc.cpp `fnv_hash`.
 *
 * JavaScript has no 64-bit integer but BigInt, which is some hundred times too slow, so the loop is WebAssembly. Each
 * byte waits for the multiplication before it (about 4 cycles); native code is no faster. Unrolling hides the rest.
 *
 *   (module
 *     (memory (export "memory") 5)
 *     (func (export "update") (param $at i32) (param $end i32) (local $h i64)
 *       (local.set $h (i64.load (i32.const 0)))                    ;; the state lives at address 0
 *       (block $tail (loop $next                                   ;; 16 bytes a turn
 *         (br_if $tail (i32.gt_u (i32.add (local.get $at) (i32.const 16)) (local.get $end)))
 *         (local.set $h (i64.mul (i64.xor (local.get $h) (i64.load8_u offset=0 (local.get $at)))
 *                                (i64.const 0x100000001b3)))
 *         ...                                                      ;; the same with offset=1 to 15
 *         (local.set $at (i32.add (local.get $at) (i32.const 16)))
 *         (br $next)))
 *       (block $done (loop $next                                   ;; the last 0 to 15 bytes
 *         (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
 *         (local.set $h (...))                                     ;; as above, offset=0
 *         (local.set $at (i32.add (local.get $at) (i32.const 1)))
 *         (br $next)))
 *       (i64.store (i32.const 0) (local.get $h))))
 */

/** `$h = ($h xor byte[$at + offset]) * prime`. */
// biome-ignore format: one instruction group a line
const step = (offset: number): readonly number[] => [
  0x20, 2, 0x20, 0, 0x31, 0, offset, 0x85,               // h xor load8_u(at, offset)
  0x42, 0xb3, 0x83, 0x80, 0x80, 0x80, 0x20, 0x7e, 0x21, 2, // * prime, into h
]

const UNROLL = 16
const offsets = Array.from({ length: UNROLL }, (_, offset) => offset)

// biome-ignore format: one instruction group a line
const body: readonly number[] = [
  1, 1, 0x7e,                              // one local of type i64
  0x41, 0, 0x29, 3, 0, 0x21, 2,            // h = i64.load(0)
  0x02, 0x40, 0x03, 0x40,                  // block, loop
  0x20, 0, 0x41, UNROLL, 0x6a,             //   at + 16
  0x20, 1, 0x4b, 0x0d, 1,                  //   > end: leave the block
  ...offsets.flatMap(step),
  0x20, 0, 0x41, UNROLL, 0x6a, 0x21, 0,    //   at += 16
  0x0c, 0, 0x0b, 0x0b,                     //   again; end, end
  0x02, 0x40, 0x03, 0x40,                  // block, loop
  0x20, 0, 0x20, 1, 0x4f, 0x0d, 1,         //   at >= end: leave the block
  ...step(0),
  0x20, 0, 0x41, 1, 0x6a, 0x21, 0,         //   at += 1
  0x0c, 0, 0x0b, 0x0b,                     //   again; end, end
  0x41, 0, 0x20, 2, 0x37, 3, 0,            // i64.store(0, h)
  0x0b,                                    // end
]

/** A length below 2^14 as two LEB128 bytes. */
const leb2 = (value: number): readonly number[] => [(value & 0x7f) | 0x80, value >> 7]

// biome-ignore format: one section a line
const moduleBytes: readonly number[] = [
  0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,                           // "\0asm", version 1
  1, 6, 1, 0x60, 2, 0x7f, 0x7f, 0,                              // type: (i32, i32) -> ()
  3, 2, 1, 0,                                                   // one function of that type
  5, 3, 1, 0, 5,                                                // memory of 5 pages
  7, 19, 2, 6, 0x6d, 0x65, 0x6d, 0x6f, 0x72, 0x79, 2, 0,        // export "memory"
  6, 0x75, 0x70, 0x64, 0x61, 0x74, 0x65, 0, 0,                  // export "update"
  10, ...leb2(body.length + 3), 1, ...leb2(body.length), ...body, // code
]

/** Input is copied in by blocks: small enough for the second-level cache, large enough to make calls cheap. */
const BLOCK_SIZE_BYTES = 4 * 65536
const BLOCK_OFFSET = 64

interface Machine {
  readonly update: (at: number, end: number) => void
  readonly block: Uint8Array
  /** The hash, low word first. */
  readonly state: Uint32Array
}

let machine: Machine | undefined

// On first use, not on import: a page whose policy forbids WebAssembly can still use the codec. The module is far below
// the size that browsers refuse to compile synchronously.
const start = (): Machine => {
  const compiled = new WebAssembly.Module(new Uint8Array(moduleBytes))
  const exports = new WebAssembly.Instance(compiled).exports as {
    readonly memory: WebAssembly.Memory
    readonly update: (at: number, end: number) => void
  }
  return {
    update: exports.update,
    block: new Uint8Array(exports.memory.buffer, BLOCK_OFFSET, BLOCK_SIZE_BYTES),
    state: new Uint32Array(exports.memory.buffer, 0, 2),
  }
}

const BASIS_LOW = 0x8422_2325
const BASIS_HIGH = 0xcbf2_9ce4

const hex8 = (word: number): string => word.toString(16).padStart(8, "0")

/** An FNV-1a-64 over bytes that come in pieces. Any number may be in use at once; all share one WebAssembly instance. */
export class Fnv1a64 {
  #low = BASIS_LOW
  #high = BASIS_HIGH

  /** Takes more bytes in; keeps no reference to them. Returns itself. */
  update(bytes: Uint8Array): this {
    machine ??= start()
    const { update, block, state } = machine
    state[0] = this.#low
    state[1] = this.#high
    for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) {
      const end = Math.min(bytes.length, at + BLOCK_SIZE_BYTES)
      block.set(at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end))
      update(BLOCK_OFFSET, BLOCK_OFFSET + end - at)
    }
    this.#low = state[0]
    this.#high = state[1]
    return this
  }

  /** The low 32 bits of the hash so far, unsigned. */
  digestLo(): number {
    return this.#low
  }

  /** The high 32 bits of the hash so far, unsigned. */
  digestHi(): number {
    return this.#high
  }

  /** The hash so far as SET_TENSOR_HASH carries it. */
  digest(): bigint {
    return (BigInt(this.#high) << 32n) | BigInt(this.#low)
  }

  /** 16 lower-case hex digits: the name of the data's file in upstream's cache. */
  digestHex(): string {
    return hex8(this.#high) + hex8(this.#low)
  }

  /** Back to the hash of nothing. */
  reset(): void {
    this.#low = BASIS_LOW
    this.#high = BASIS_HIGH
  }
}
